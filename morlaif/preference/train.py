"""Training preference models on verdicts, one or many at once.

The loop (`PMTrainer`) is our own: TRL's RewardTrainer takes hard labels alone, trains one model at a time, pads by
batch order and costs seconds of set-up for each of a dozen small models. A test holds our loss against its.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from morlaif import ranks, sharded
from morlaif.data.chat import response_ids
from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.models.adapters import Adapter, adapter_hash, read_adapter, write_adapter
from morlaif.models.layers import disable_dropout, top_layers
from morlaif.models.load import load_tokenizer
from morlaif.models.open import quiet
from morlaif.preference.card import write_card
from morlaif.preference.checkpoint import TrainingCheckpoints
from morlaif.preference.learners import FullLearner, Learner, SharedLearner, StackedLearner, Texts, score_texts
from morlaif.preference.lora import forward_tokens
from morlaif.preference.model import fingerprint, load_classifier, tokenize
from morlaif.preference.pairs import LabelledPairs, batched_over, kept_out, label_pairs, prompt_room, without_ties
from morlaif.preference.questions import check_questions, question_ids
from morlaif.preference.report import MODEL, PMReport, measures
from morlaif.preference.scorers import aggregate
from morlaif.preference.settings import SHARED, ConditionedPM, EnsemblePM, TopLayers, TrainedPM
from morlaif.preference.split import SplitTrunk
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.trainer import Fitted, OnStep, PMTrainer, TrainingPairs
from morlaif.settings import identity

if TYPE_CHECKING:
    from morlaif.feedback.records import Verdict


def train_pm(
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    held_pairs: Sequence[Pair],
    held_verdicts: Sequence[Verdict],
    base: str | Path,
    settings: TrainedPM,
    *,
    principle: str,
    out: Path,
    seed: int,
    revision: str | None = None,
    own_base: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    keep: Path | None = None,
) -> PMReport:
    """Train one preference model on `pairs`, test it on `held_pairs`, and leave it in `out`. `keep`: as below."""
    corpus = Corpus(pairs, held_pairs, base, revision, own_base, torch.device(device), dtype)
    ends = train_pms(
        [Task(principle, verdicts, held_verdicts, out)], corpus, settings, seed=seed,
        on_step=lambda step, steps, losses: on_step(step, steps, losses.get(principle, float("nan"))), keep=keep,
    )  # fmt: skip
    result = ends[principle]
    if isinstance(result, UserError):
        raise result
    return result


def train_pms(
    tasks: Sequence[Task],
    corpus: Corpus,
    settings: TrainedPM,
    *,
    seed: int,
    on_step: OnStep = lambda step, steps, losses: None,
    keep: Path | None = None,
) -> dict[str, PMReport | UserError]:
    """Train the preference models of `tasks`, test them, and leave each in its folder.

    The same seed, data and device give the same weights; for kinds whose weights are each principle's own, whatever
    the company. With a dtype below float32 the frozen base is kept in it, and trained weights stay in float32 under
    autocast. A principle that cannot be trained has its error in the result; the others are there all the same.

    keep: a folder for checkpoints, every `checkpoint_every` steps. The same call goes on from the last one, at the step
    after it, and comes to the same weights; steps that were made before are not told of again. None: nothing is kept.
    """
    return _Training(tasks, corpus, settings, seed, on_step, keep).run()


class _Training:
    def __init__(
        self,
        tasks: Sequence[Task],
        corpus: Corpus,
        settings: TrainedPM,
        seed: int,
        on_step: OnStep,
        keep: Path | None,
    ) -> None:
        self.tasks, self.corpus, self.settings, self.seed, self.on_step = tasks, corpus, settings, seed, on_step
        self.keep = keep
        self.saved: TrainingCheckpoints | None = None  # known once the base is
        self.names = [task.principle for task in tasks]
        self.tokenizer = load_tokenizer(corpus.source)
        responses = [response_ids(self.tokenizer, text) for pair in corpus.pairs for text in (pair.first, pair.second)]
        self.max_prompt = prompt_room([len(ids) for ids in responses], settings.max_length)
        self.data = self._label(corpus.pairs, {task.principle: task.verdicts for task in tasks})
        self.held = self._label(corpus.held_pairs, {task.principle: task.held_verdicts for task in tasks})
        self.labels = self.data.probability if settings.ties == "keep" else without_ties(self.data.probability)
        self.chosen_by: list[int] = []
        if settings.early_stopping is not None:
            kept = kept_out(self.data.prompt_ids, settings.early_stopping.share)
            self.chosen_by = kept.nonzero().flatten().tolist()
            self.selection = self.labels
            self.labels = self.labels.masked_fill(kept.unsqueeze(1), torch.nan)
        self.learnt = {k: (~self.labels[:, k].isnan()).nonzero().flatten().tolist() for k in range(len(tasks))}
        self.texts = Texts(self.data.rows, self.tokenizer.pad_token_id, corpus.device)
        self.held_texts = Texts(self.held.rows, self.tokenizer.pad_token_id, corpus.device)
        self.ends: dict[str, PMReport | UserError] = {}
        self.running: Any = None  # what gathers a base that lies in parts on several ranks

    def _label(self, pairs: Sequence[Pair], verdicts: Mapping[str, Sequence[Verdict]]) -> LabelledPairs:
        encode = partial(tokenize, self.tokenizer, max_length=self.settings.max_length, max_prompt=self.max_prompt)
        return label_pairs(encode, pairs, verdicts)

    def run(self) -> dict[str, PMReport | UserError]:
        taught = [k for k in range(len(self.tasks)) if self._has_data(k)]
        with torch.random.fork_rng(devices=[self.corpus.device] if self.corpus.device.type == "cuda" else []):
            if self.settings.kind == "full":
                self._full(taught)
            elif self.settings.kind in SHARED:
                self._shared(taught)
            else:
                self._stacked(taught)
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

    # one model for each principle

    def _full(self, taught: Sequence[int]) -> None:
        for k in taught:
            model, origin = self._load(torch.float32)
            learner = FullLearner(self.names[k], model, self.settings.pooling, self._generator(self.names[k]))
            fitted = self._fit(learner, [k], self._batched_over([k])[k], self.seed)
            if fitted is None:
                continue
            report = self._report(k, fitted, 0, self._held_scores(learner)[:, :, 0], origin, [self.names[k]])
            self._write_whole(k, learner)
            self._leave(k, report)

    def _write_whole(self, k: int, learner: FullLearner) -> None:
        model = learner.model
        state = None if ranks.count() == 1 else sharded.state_dict(model, torch.float32)

        def write() -> None:
            with quiet():
                model.config.dtype = torch.float32  # in which the weights are written, whatever computed with them
                model.save_pretrained(self.tasks[k].out / MODEL, state_dict=state)

        ranks.on_first(write)

    # one adapter for each principle, as many at once as the memory allows

    def _stacked(self, taught: Sequence[int]) -> None:
        settings = self.settings
        model, origin = self._load(self.corpus.dtype)
        disable_dropout(model)  # a frozen base is the same for all: what drops out, drops in front of the adapters
        split = None
        if settings.kind == "trunk" or (isinstance(settings, EnsemblePM) and settings.member == "trunk"):
            split = SplitTrunk(model, top_layers(model, settings.top).start)
            self._keep_lower(split, model)
        members = settings.members if isinstance(settings, EnsemblePM) else 1
        batched_over = self._batched_over(taught)
        alike = {k: (over, self._places(k, members)) for k, over in batched_over.items()}
        for together in _groups(alike, self._at_once()):
            trained: dict[int, list[_Trained]] = {k: [] for k in together}
            for member in range(members):
                names = [self.names[k] for k in together]
                generators = [self._generator(name, member) for name in names]
                learner = StackedLearner(names, model, settings.lora, settings.pooling, generators, split)
                fitted = self._fit(learner, together, batched_over[together[0]], self.seed + member, member, members)
                if fitted is not None:
                    held = self._held_scores(learner)
                    mean = self._mean_scores(learner, together) if members > 1 else [0.0] * len(together)
                    for i, k in enumerate(together):
                        if i not in fitted.failed:
                            trained[k].append(_Trained(learner.adapter(i), fitted, i, held[:, :, i], mean[i]))
                learner.stack.remove()
            for k, models in trained.items():
                if self.names[k] not in self.ends:
                    self._leave_adapters(k, models, model, origin)

    def _leave_adapters(
        self, k: int, models: Sequence[_Trained], model: PreTrainedModel, origin: dict[str, Any]
    ) -> None:
        name, settings = self.names[k], self.settings
        if not isinstance(settings, EnsemblePM):
            (one,) = models
            report = self._report(k, one.fitted, one.column, one.held, origin, [name])
            self._leave(k, replace(report, adapter=self._write(k, one.adapter, model)))
            return
        described = []
        for index, one in enumerate(models):
            folder = MODEL if index == 0 else f"{MODEL}/members/{index}"
            accuracy = self._report(k, one.fitted, one.column, one.held, origin, [name]).accuracy
            written = self._write(k, one.adapter, model, folder)
            described.append({"folder": folder, "adapter": written, "offset": one.mean, "accuracy": accuracy})
        rule = {"rule": settings.aggregate, "penalty": settings.penalty}
        centred = np.stack([one.held - one.mean for one in models], axis=-1)  # (N, 2, members)
        whole = aggregate(torch.from_numpy(centred), **rule).numpy()
        report = self._report(k, models[0].fitted, models[0].column, whole, origin, [name])
        loss = float(np.mean([one.fitted.train_loss(one.column) for one in models]))
        report = replace(report, train_loss=loss, members=described, aggregate=rule, adapter=described[0]["adapter"])
        self._leave(k, report)

    # one adapter for all

    def _shared(self, taught: Sequence[int]) -> None:
        if not taught:
            return
        settings, names = self.settings, [self.names[k] for k in taught]
        model, origin = self._load(self.corpus.dtype)
        disable_dropout(model)
        asked = questions = None
        if isinstance(settings, ConditionedPM):
            check_questions(model)
            asked = [self.tasks[k].instruction(settings) for k in taught]
            questions = [question_ids(self.tokenizer, text) for text in asked]
        learner = SharedLearner(names, model, settings.lora, settings.pooling, self._generator("shared"), questions)
        over = batched_over((~self.labels[:, taught].isnan()).any(1), len(self.labels))
        fitted = self._fit(learner, taught, over, self.seed)
        if fitted is None:
            return
        held = self._held_scores(learner)
        for i, k in enumerate(taught):
            report = self._report(k, fitted, i, held[:, :, i], origin, names)
            written = self._write(k, learner.adapter(i), model)
            self._leave(k, replace(report, adapter=written, question=asked and asked[i]))

    # what all have in common

    def _load(self, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
        corpus = self.corpus
        model = load_classifier(corpus.source, self.tokenizer, dtype=dtype, device=corpus.device)
        model.requires_grad_(self.settings.kind == "full")
        if self.settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        trunk = getattr(model, model.base_model_prefix)
        if self.settings.kind != "full":
            self.running = sharded.run_frozen(trunk)
        origin = {
            "path": corpus.source.path, "revision": corpus.source.revision, "own": corpus.own_base,
            "fingerprint": fingerprint(model),
        }  # fmt: skip
        if self.keep is not None and self.saved is None:
            self.saved = self._saved(origin["fingerprint"])
        return model, origin

    def _saved(self, base: str) -> TrainingCheckpoints:
        pairs = hashlib.sha256(" ".join(pair.id for pair in self.corpus.pairs).encode()).hexdigest()
        marks = {task.principle: task.mark(self.data.probability[:, k]) for k, task in enumerate(self.tasks)}
        which = {"settings": identity(self.settings), "seed": self.seed, "base": base, "pairs": pairs}
        return TrainingCheckpoints(self.keep, which, marks, apart=self.settings.kind not in SHARED)

    def _places(self, k: int, members: int) -> tuple[str | None, ...]:
        """The checkpoints that principle `k` goes on from; principles that were saved apart go on apart."""
        return () if self.saved is None else tuple(self.saved.place(self.names[k], m) for m in range(members))

    def _generator(self, name: str, member: int = 0) -> torch.Generator:
        """For first weights: each principle its own, whoever is trained beside it."""
        key = hashlib.sha256(f"{self.seed}/{name}/{member}".encode()).hexdigest()
        return torch.Generator().manual_seed(int(key[:8], 16))

    def _batched_over(self, taught: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """The pairs that each principle's batches are made of."""
        free = [i for i in range(len(self.labels)) if i not in set(self.chosen_by)]
        place = {i: at for at, i in enumerate(free)}
        result = {}
        for k in taught:
            usable = torch.zeros(len(free), dtype=torch.bool)
            usable[[place[i] for i in self.learnt[k]]] = True
            result[k] = tuple(free[at] for at in batched_over(usable, len(free)))
        return result

    def _at_once(self) -> int:
        """How many principles go through one training forward."""
        share = -(-self.settings.batch_size // ranks.count())
        micro = min(self.settings.micro_batch_size or share, share)
        most = self.settings.joint_tokens // (2 * micro * max(self.texts.lengths))
        return max(1, min(self.settings.joint, most))

    def _keep_lower(self, split: SplitTrunk, model: PreTrainedModel) -> None:
        """Run the frozen layers once and for all where their states are read again and fit the memory given to them."""
        settings: TopLayers = self.settings
        wide = model.config.get_text_config().hidden_size * torch.finfo(self.corpus.dtype).bits // 8
        tokens = forward_tokens(model)
        if sum(self.texts.lengths + self.held_texts.lengths) * wide <= settings.cache_gb * 1e9:
            self.texts.keep_lower(split, tokens)
            self.held_texts.keep_lower(split, tokens)

    def _fit(
        self,
        learner: Learner,
        which: Sequence[int],
        pairs: Sequence[int],
        seed: int,
        member: int = 0,
        members: int = 1,
    ) -> Fitted | None:
        """Train; None if nothing came of it. What failed stands in `ends`."""
        torch.manual_seed(seed + 1_000_003 * ranks.rank())  # for dropout: ranks have different rows
        labels = (self.labels if not self.chosen_by else self.selection)[:, which]
        try:
            fitted = PMTrainer(
                learner, TrainingPairs(self.texts, labels, pairs, self.chosen_by), self.settings,
                torch.Generator().manual_seed(seed), self.corpus.dtype,
                lambda step, steps, losses: self.on_step(member * steps + step, members * steps, losses),
                self.saved and self.saved.of([self.names[k] for k in which], member),
            ).run()  # fmt: skip
        except UserError as error:
            self.ends |= {self.names[k]: error for k in which}
            return None
        self.ends |= {self.names[which[i]]: error for i, error in fitted.failed.items()}
        return fitted

    def _held_scores(self, learner: Learner) -> np.ndarray:
        """(N, 2, K) scores of the held-out pairs' responses."""
        scores = score_texts(learner, self.held_texts, range(2 * len(self.held)), self.corpus.dtype)
        return scores.view(2, len(self.held), -1).transpose(0, 1).double().numpy()

    def _mean_scores(self, learner: Learner, which: Sequence[int]) -> list[float]:
        """Of the training responses that each principle has learnt from: the free offset of a Bradley-Terry score."""
        scores = score_texts(learner, self.texts, range(2 * len(self.data)), self.corpus.dtype)
        scores = scores.view(2, len(self.data), -1)
        return [float(scores[:, self.learnt[k], i].mean()) for i, k in enumerate(which)]

    def _report(
        self, k: int, fitted: Fitted, column: int, held: np.ndarray, origin: dict[str, Any], together: list[str]
    ) -> PMReport:
        settings, task = self.settings, self.tasks[k]
        return PMReport(
            principle=task.principle, text=task.text, kind=settings.kind, pooling=settings.pooling,
            max_length=settings.max_length, max_prompt=self.max_prompt, base=origin, adapter=None,
            train_loss=fitted.train_loss(column), steps=len(fitted.losses), together=together,
            **measures(k, self.data, self.learnt[k], self.held, held),
        )  # fmt: skip

    def _write(self, k: int, adapter: Adapter, model: PreTrainedModel, folder: str = MODEL) -> str:
        path, corpus = self.tasks[k].out / folder, self.corpus

        def write() -> str:
            write_adapter(path, adapter, self.settings.lora, model, str(corpus.base), corpus.revision)
            self.tokenizer.save_pretrained(path)
            return adapter_hash(read_adapter(path, self.names[k]))

        return ranks.on_first(write)

    def _leave(self, k: int, report: PMReport) -> None:
        out = self.tasks[k].out

        def write() -> None:
            self.tokenizer.save_pretrained(out / MODEL)
            report.save(out)
            write_card(out / MODEL / "README.md", report, self.settings)

        ranks.on_first(write)
        self.ends[report.principle] = report


@dataclass(frozen=True)
class _Trained:
    adapter: Adapter
    fitted: Fitted
    column: int
    held: np.ndarray  # (N, 2)
    mean: float  # of its training scores


def _groups(what: Mapping[int, Hashable], at_once: int) -> Iterator[list[int]]:
    """Principles of which the same is said (batches of the same pairs, say), `at_once` at most."""
    alike: dict[Hashable, list[int]] = {}
    for k, said in what.items():
        alike.setdefault(said, []).append(k)
    for members in alike.values():
        for start in range(0, len(members), at_once):
            yield members[start : start + at_once]
