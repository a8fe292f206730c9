"""A generative reward model (Mahan et al. 2024, arXiv 2410.12832): the judge itself, fine-tuned on verdicts.

It is asked as a local judge is, in both orders, and learns to say the letter of the verdict:

    L = −log P(I | x, y₁, y₂),   I the letter of the better one;   with a soft label p, −[p log P(A) + (1 − p) log P(B)]

P(A) is that of all tokens that say A. Where both letters carry all mass, L is the binary cross-entropy of their gap.

As a reward it scores a response by its log-odds over a reference, the mean of both orders. The reference of a prompt
is the second response of its pair, whose own score is 0: on a pair, the difference of two scores is the judge's verdict
on it. A prompt that no pair has is compared with one response that is the same for all such prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from morlaif.data.records import Message, Pair, prompt_id
from morlaif.errors import UserError
from morlaif.feedback.local import LetterModel, Stem
from morlaif.feedback.prompt import comparison_messages
from morlaif.feedback.settings import Principle
from morlaif.models.load import load_causal_lm, load_tokenizer
from morlaif.models.open import quiet
from morlaif.models.place import Source
from morlaif.preference.kind import OwnKind, Scorer
from morlaif.preference.scoring import length_buckets
from morlaif.settings import Batch, Count, LearningRate, Line, Positive, Size, Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from morlaif.preference.tasks import Corpus, Task

REFERENCES = "references.json"  # beside the model: the question, and the responses that others are compared with


def indicator_loss(logprobs: Tensor, probability: Tensor) -> Tensor:
    """−[p log P(A) + (1 − p) log P(B)]: (N,) from the letters' log-probabilities (N, 2) and the label p (N,)."""
    return -(probability * logprobs[:, 0] + (1.0 - probability) * logprobs[:, 1])


class GenerativeRM(OwnKind):
    """A model for each principle: a whole causal language model, which `feedback=hf` also takes as a judge."""

    def __init__(
        self,
        *,
        base: Line | None = None,
        epochs: Count = 1,
        batch_size: Batch = 16,
        micro_tokens: Count = 2048,
        learning_rate: LearningRate = 1e-5,
        r: Size | None = 16,
        alpha: Positive = 32.0,
        soft: bool = True,
        question: Text = "Which option is the better reply, all things considered?",
        description: Text = "Weigh usefulness, truth, care and good form together.",
    ) -> None:
        """
        Args:
            base: the judge that is fine-tuned, a folder or a hub id; None: the run's SFT model.
            micro_tokens: padded tokens of one forward while it learns; fewer need less memory, one question at least.
            r, alpha: of a LoRA adapter, merged in the end; r None: every weight learns.
            soft: learn the judge's probabilities; else the letter of the better response, without ties.
            question, description: what models of a whole are asked; those of a principle are asked its own.
        """
        self.on_policy = base is None  # type: ignore[misc]  # of this object
        self.base, self.epochs, self.batch_size, self.learning_rate = base, epochs, batch_size, learning_rate
        self.micro_tokens = micro_tokens
        self.r, self.alpha, self.soft = r, alpha, soft
        self.question, self.description = question, description

    def train(self, task: Task, corpus: Corpus, folder: Path, seed: int) -> None:
        source = corpus.source if self.base is None else Source(self.base, key="pm.params.base")
        tokenizer = load_tokenizer(source)
        model = load_causal_lm(source, device=corpus.device, tokenizer=tokenizer)
        asked = self._principle(task)
        engine = LetterModel(model, tokenizer, self.batch_size)
        pairs = {pair.id: pair for pair in corpus.pairs}
        rows = [
            row
            for verdict in task.verdicts
            if verdict.valid and verdict.p_first is not None
            for row in self._questions(engine, pairs[verdict.pair_id], verdict.p_first, asked)
        ]
        if not rows:
            raise UserError(f"pm/{task.principle}: no verdict to learn from whose question fits the model's context")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learnt = self._learn(engine, rows, seed)
        learnt.eval()
        with quiet():
            learnt.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        references = {prompt_id(pair.messages): pair.second for pair in [*corpus.pairs, *corpus.held_pairs]}
        kept = {"question": asked.question, "description": asked.description, "by_prompt": references}
        (folder / REFERENCES).write_text(json.dumps(kept | {"other": corpus.pairs[0].second}, ensure_ascii=False))

    def load(self, folder: Path, base: Source | None, device: torch.device) -> Scorer:
        kept = json.loads((folder / REFERENCES).read_text())
        asked = Principle(name="asked", question=kept["question"], description=kept["description"], covers=("asked",))
        source = Source(str(folder), own=True)
        tokenizer = load_tokenizer(source)
        model = load_causal_lm(source, device=device, tokenizer=tokenizer)
        engine = LetterModel(model, tokenizer, self.batch_size)

        def score(prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Tensor:
            others = [kept["by_prompt"].get(prompt_id(list(messages)), kept["other"]) for messages in prompts]
            return self._log_odds(engine, prompts, responses, others, asked)

        return score

    def _log_odds(
        self,
        engine: LetterModel,
        prompts: Sequence[Sequence[Message]],
        responses: Sequence[str],
        others: Sequence[str],
        asked: Principle,
    ) -> Tensor:
        """(N,) of each response over the other, the mean of both orders; 0 where they are the same text.

        Raises:
            UserError: a question that does not fit the model's context, even about the last turn alone.
        """
        value = torch.zeros(len(responses))
        rows = [k for k, (one, other) in enumerate(zip(responses, others, strict=True)) if one != other]
        stems = [
            self._question(engine, list(prompts[k]), a, b, asked)
            for k in rows
            for a, b in ((responses[k], others[k]), (others[k], responses[k]))
        ]
        gaps = self._gaps(engine, stems)
        for place, k in enumerate(rows):
            value[k] = (gaps[2 * place] - gaps[2 * place + 1]) / 2
        return value

    def _question(self, engine: LetterModel, messages: list[Message], a: str, b: str, asked: Principle) -> Stem:
        """Of the whole dialogue, or of its last turn where that is too long."""
        for turns in (messages, messages[-1:]):
            stem = engine.stem([self._asks(turns, a, b, asked)])
            if engine.fits(stem, self._room(engine)):
                return stem
        raise UserError(
            f"pm: a question of {len(stem.prefix) + len(stem.endings[0])} tokens is longer than the context of the "
            "generative reward model; allow shorter responses (ppo.max_new_tokens), or another base (pm.params.base)"
        )

    def _asks(self, messages: Sequence[Message], a: str, b: str, asked: Principle) -> list[Message]:
        return comparison_messages(messages, a, b, asked)

    def _room(self, engine: LetterModel) -> int:
        """Tokens that a question needs beyond its own."""
        return 0

    def _gaps(self, engine: LetterModel, stems: Sequence[Stem]) -> list[float]:
        """log P(A) - log P(B) of each question."""
        return [gap for (gap,) in engine.gaps(stems)]

    def _principle(self, task: Task) -> Principle:
        return Principle(
            name="asked", question=task.question or self.question, description=task.description or self.description,
            covers=("asked",),
        )  # fmt: skip

    def _questions(
        self, engine: LetterModel, pair: Pair, p_first: float, asked: Principle
    ) -> Iterator[tuple[Stem, float]]:
        """In both orders, each with the probability of A; none that is too long."""
        p = p_first if self.soft else float(p_first > 0.5)
        if not self.soft and p_first == 0.5:
            return
        for a, b, label in ((pair.first, pair.second, p), (pair.second, pair.first, 1.0 - p)):
            stem = engine.stem([self._asks(pair.messages, a, b, asked)])
            if engine.fits(stem, self._room(engine)):
                yield stem, label

    def _learning(self, engine: LetterModel) -> Any:
        """The model with what learns: an adapter on it, or all of its weights."""
        if self.r is None:
            return engine.model
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=self.r, lora_alpha=self.alpha, target_modules="all-linear")
        return get_peft_model(engine.model, lora)

    def _whole(self, model: Any) -> PreTrainedModel:
        made: PreTrainedModel = model.merge_and_unload() if self.r is not None else model
        return made

    def _learn(self, engine: LetterModel, questions: Sequence[tuple[Stem, float]], seed: int) -> PreTrainedModel:
        rows = [(stem.prefix + stem.endings[0], label) for stem, label in questions]
        model = self._learning(engine)

        def loss(batch: Sequence[tuple[list[int], float]]) -> Tensor:
            ids, mask = engine.padded([own for own, _ in batch], left=False)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = engine.forward(ids, mask, positions, None, (mask.sum(1) - 1).tolist())
            labels = torch.tensor([label for _, label in batch], device=ids.device)
            return indicator_loss(engine.letters(logits), labels)

        self._fit(model, rows, seed, loss, lambda row: len(row[0]), decay=True)
        return self._whole(model)

    def _fit(
        self,
        model: Any,
        rows: Sequence[Any],
        seed: int,
        loss: Callable[[Sequence[Any]], Tensor],
        tokens: Callable[[Any], int],
        decay: bool = False,
    ) -> None:
        """`epochs` passes over `rows`, by the mean of their losses (N,); nothing where there are none.

        `decay`: the learning rate falls to 0.
        """
        optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=self.learning_rate)
        order = torch.Generator().manual_seed(seed)
        steps = self.epochs * -(-len(rows) // self.batch_size)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0 if decay else 1.0, max(1, steps))
        model.eval()  # dropout off: a judge is asked so
        for _ in range(self.epochs if rows else 0):
            for places in torch.randperm(len(rows), generator=order).split(self.batch_size):
                batch = [rows[place] for place in places.tolist()]
                optimizer.zero_grad()
                for part in length_buckets([tokens(row) for row in batch], self.micro_tokens):
                    (loss([batch[k] for k in part]).sum() / len(batch)).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
