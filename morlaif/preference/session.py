"""One training of preference models: its pairs, its base, and how what was learnt is tested and left behind.

How weights are laid out and which principles learn together is each kind's own: `separate`, `shared`, `full`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from morlaif import ranks, sharded
from morlaif.data.chat import response_ids
from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.models.adapters import Adapter, adapter_hash, read_adapter, write_adapter
from morlaif.models.layers import trunk_of
from morlaif.models.load import load_tokenizer
from morlaif.models.settings import LoRASettings
from morlaif.preference.card import write_card
from morlaif.preference.checkpoint import TrainingCheckpoints
from morlaif.preference.kind import Kind, OnStep
from morlaif.preference.learners import Learner, Texts, score_texts
from morlaif.preference.model import fingerprint, load_classifier, tokenize
from morlaif.preference.pairs import LabelledPairs, batched_over, kept_out, label_pairs, prompt_room, without_ties
from morlaif.preference.report import MODEL, PMReport, measures
from morlaif.preference.settings import TrainedPM
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.trainer import Fitted, PMTrainer, TrainingPairs
from morlaif.settings import identity

Ends = dict[str, PMReport | UserError]


class Base(NamedTuple):
    """The network that a training starts from."""

    model: PreTrainedModel
    origin: dict[str, Any]  # for reports: where it lies, and the fingerprint of its weights


class Session:
    """The tasks of one training, by their place k, and what they share."""

    def __init__(
        self,
        kind: Kind[Any],
        settings: TrainedPM,
        tasks: Sequence[Task],
        corpus: Corpus,
        seed: int,
        on_step: OnStep,
        keep: Path | None,
    ) -> None:
        self.kind, self.settings, self.tasks, self.corpus = kind, settings, tasks, corpus
        self.seed, self.on_step, self.keep = seed, on_step, keep
        self.checkpoints: TrainingCheckpoints | None = None  # known once the base is
        self.names = [task.principle for task in tasks]
        self.tokenizer = load_tokenizer(corpus.source)
        texts = (text for pair in corpus.pairs for text in (pair.first, pair.second))
        self.max_prompt = prompt_room([len(response_ids(self.tokenizer, text)) for text in texts], settings.max_length)
        self.data = self._label(corpus.pairs, {task.principle: task.verdicts for task in tasks})
        self.held = self._label(corpus.held_pairs, {task.principle: task.held_verdicts for task in tasks})
        self.labels = self.data.probability if settings.ties == "keep" else without_ties(self.data.probability)
        self.chosen_by: list[int] = []  # pairs that early stopping looks at
        self.learnt_labels = self.labels  # NaN on those
        if settings.early_stopping is not None:
            kept = kept_out(self.data.prompt_ids, settings.early_stopping.share)
            self.chosen_by = kept.nonzero().flatten().tolist()
            self.learnt_labels = self.labels.masked_fill(kept.unsqueeze(1), torch.nan)
        self.learnt = [(~column.isnan()).nonzero().flatten().tolist() for column in self.learnt_labels.T]  # pairs, of k
        self.texts = Texts(self.data.rows, self.tokenizer.pad_token_id, corpus.device)
        self.held_texts = Texts(self.held.rows, self.tokenizer.pad_token_id, corpus.device)
        self.ends: Ends = {}
        self.running: Any = None  # what gathers a base that lies in parts on several ranks

    def _label(self, pairs: Sequence[Pair], verdicts: Mapping[str, Sequence[Verdict]]) -> LabelledPairs:
        encode = partial(tokenize, self.tokenizer, max_length=self.settings.max_length, max_prompt=self.max_prompt)
        return label_pairs(encode, pairs, verdicts, self.keep)

    def run(self, learn: Callable[[Session, Sequence[int]], None]) -> Ends:
        """`learn` trains, tests and leaves the models of the tasks that have anything to learn from."""
        taught = [k for k in range(len(self.tasks)) if self._has_data(k)]
        with torch.random.fork_rng(devices=[self.corpus.device] if self.corpus.device.type == "cuda" else []):
            learn(self, taught)
        return {name: self.ends[name] for name in self.names}

    def _has_data(self, k: int) -> bool:
        if self.learnt[k]:
            return True
        task, invalid, equal = self.tasks[k], self.data.invalid[k], self.data.cut["equal"]
        self.ends[task.principle] = UserError(
            f"pm/{task.principle}: none of {len(task.verdicts)} verdicts can be trained on ({invalid} invalid; "
            f"{equal} pairs equal in {self.settings.max_length} tokens)"
        )
        return False

    # --- 1. what learns ---

    def load_frozen(self) -> Base:
        """The base in the dtype of the corpus, for adapters."""
        return self._load(self.corpus.dtype, learns=False)

    def load_learning(self) -> Base:
        """The base in float32, all of which learns."""
        return self._load(torch.float32, learns=True)

    def _load(self, dtype: torch.dtype, learns: bool) -> Base:
        source = self.corpus.source
        model = load_classifier(source, self.tokenizer, dtype=dtype, device=self.corpus.device)
        model.requires_grad_(learns)
        if self.settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if not learns:
            self.running = sharded.run_frozen(trunk_of(model))
        weights = fingerprint(model)
        origin = {
            "path": source.path, "revision": source.revision, "own": self.corpus.own_base,
            "fingerprint": weights,
        }  # fmt: skip
        if self.keep is not None and self.checkpoints is None:
            self.checkpoints = TrainingCheckpoints(
                self.keep, self._identity(weights), self._fingerprints(), not self.kind.shared
            )
        return Base(model, origin)

    def _identity(self, base: str) -> dict[str, Any]:
        """All that every fit of this training depends on."""
        pairs = hashlib.sha256(" ".join(pair.id for pair in self.corpus.pairs).encode()).hexdigest()
        return {"settings": identity(self.settings), "seed": self.seed, "base": base, "pairs": pairs}

    def _fingerprints(self) -> dict[str, str]:
        return {task.principle: task.fingerprint(self.data.probability[:, k]) for k, task in enumerate(self.tasks)}

    def generator(self, name: str, member: int = 0) -> torch.Generator:
        """For first weights: each principle its own, whoever is trained beside it."""
        key = hashlib.sha256(f"{self.seed}/{name}/{member}".encode()).hexdigest()
        return torch.Generator().manual_seed(int(key[:8], 16))

    # --- 2. how it learns ---

    def batched_over(self, k: int) -> tuple[int, ...]:
        """The pairs that batches for task `k` are made of."""
        kept = set(self.chosen_by)
        free = [i for i in range(len(self.data)) if i not in kept]
        place = {i: at for at, i in enumerate(free)}
        usable = torch.zeros(len(free), dtype=torch.bool)
        usable[[place[i] for i in self.learnt[k]]] = True
        return tuple(free[at] for at in batched_over(usable, len(free)))

    def resumes_from(self, k: int, members: int) -> tuple[str | None, ...]:
        """The checkpoints that task `k` goes on from; tasks that were saved apart go on apart."""
        if self.checkpoints is None:
            return ()
        return tuple(self.checkpoints.place(self.names[k], member) for member in range(members))

    def fit(
        self,
        learner: Learner,
        which: Sequence[int],
        pairs: Sequence[int],
        member: int = 0,
        members: int = 1,
        weights: Tensor | None = None,
    ) -> Fitted | None:
        """Train `learner` on the tasks `which`; None if nothing came of it. What failed is in `ends`.

        weights: (N, scores) of each pair for each of the learner's scores, 0: it is not learnt from. Where the learner
        has several scores a task, those of a task are side by side.
        """
        tasks = _side_by_side(which, learner)
        labels = self.labels[:, tasks]
        if weights is not None:
            learnt = torch.ones(len(labels), 1, dtype=torch.bool)
            learnt[self.chosen_by] = False  # the others choose when to stop, as they are
            labels = labels.masked_fill(learnt & (weights == 0), torch.nan)
        return self.fit_on(
            learner, which, TrainingPairs(self.texts, labels, pairs, self.chosen_by, weights), member, members
        )

    def fit_on(
        self, learner: Learner, which: Sequence[int], pairs: TrainingPairs, member: int = 0, members: int = 1
    ) -> Fitted | None:
        """The same on pairs that may be made of those of the tasks `which`, as all of which the learner is kept."""
        seed = self.seed + member
        torch.manual_seed(seed + 1_000_003 * ranks.rank())  # for dropout: ranks have different rows
        trainer = PMTrainer(
            learner, pairs, self.settings, torch.Generator().manual_seed(seed), self.corpus.dtype,
            lambda step, steps, losses: self.on_step(member * steps + step, members * steps, self._by_task(losses)),
            None if self.checkpoints is None else self.checkpoints.of([self.names[k] for k in which], member),
        )  # fmt: skip
        try:
            fitted = trainer.run()
        except UserError as error:
            self.ends |= {self.names[k]: error for k in which}
            return None
        if fitted.failed:
            tasks = _side_by_side(which, learner)
            self.ends |= {self.names[tasks[i]]: error for i, error in fitted.failed.items()}
        return fitted

    def _by_task(self, losses: Mapping[str, float]) -> dict[str, float]:
        """The mean loss of each task, from those of its scores: <principle>, or <principle>/<member>."""
        of: dict[str, list[float]] = {}
        for name, loss in losses.items():
            of.setdefault(name.partition("/")[0], []).append(loss)
        return {name: sum(own) / len(own) for name, own in of.items()}

    # --- 3. how good it is ---

    def held_scores(self, learner: Learner) -> NDArray[np.float64]:
        """(N, 2, K) scores of the held-out pairs' responses."""
        scores = score_texts(learner, self.held_texts, range(2 * len(self.held)), self.corpus.dtype)
        return scores.view(2, len(self.held), -1).transpose(0, 1).double().numpy()

    def mean_scores(self, learner: Learner, which: Sequence[int]) -> list[float]:
        """Of the training responses that each task has learnt from: the free offset of a Bradley-Terry score."""
        scores = score_texts(learner, self.texts, range(2 * len(self.data)), self.corpus.dtype)
        scores = scores.view(2, len(self.data), -1)
        return [float(scores[:, self.learnt[k], i].mean()) for i, k in enumerate(_side_by_side(which, learner))]

    def report(
        self,
        k: int,
        fitted: Fitted,
        column: int,
        held: NDArray[np.float64],
        origin: dict[str, Any],
        together: list[str] | None = None,
    ) -> PMReport:
        """Of task `k`, which is `column` of what was fitted. held: (N, 2) scores of the held-out responses. together:
        the principles that trained the same weights; this one alone, if none are given."""
        settings, task = self.settings, self.tasks[k]
        return PMReport(
            principle=task.principle, text=task.text, kind=self.kind.name, pooling=settings.pooling,
            max_length=settings.max_length, max_prompt=self.max_prompt, base=origin, adapter=None,
            train_loss=fitted.train_loss(column), steps=len(fitted.losses), together=together or [task.principle],
            **measures(k, self.data, self.learnt[k], self.held, held),
        )  # fmt: skip

    # --- 4. what it leaves ---

    def write_adapter(
        self, k: int, adapter: Adapter, lora: LoRASettings, model: PreTrainedModel, folder: str = MODEL
    ) -> str:
        """Write the adapter of task `k` in peft's format; its hash."""
        path, corpus = self.tasks[k].out / folder, self.corpus

        def write() -> str:
            write_adapter(path, adapter, lora, model, str(corpus.base), corpus.revision)
            self.tokenizer.save_pretrained(path)
            return adapter_hash(read_adapter(path, self.names[k]))

        return ranks.on_first(write)

    def leave(self, k: int, report: PMReport) -> None:
        """Write what belongs beside the weights, and be done with task `k`."""
        out = self.tasks[k].out

        def write() -> None:
            self.tokenizer.save_pretrained(out / MODEL)
            report.save(out)
            write_card(out / MODEL / "README.md", report, self.settings, self.kind.about)

        ranks.on_first(write)
        self.ends[report.principle] = report


def _side_by_side(which: Sequence[int], learner: Learner) -> list[int]:
    """The task of each of the learner's scores."""
    return [k for k in which for _ in range(len(learner.names) // len(which))]
