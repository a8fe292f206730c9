"""A generative reward model that reasons before it answers, and learns from its own reasoning (Mahan et al. 2024, arXiv
2410.12832; STaR is Zelikman et al. 2022, arXiv 2203.14465).

    question ──sample──▶ rationale ──read──▶ letter;   right: the letter of the verdict

In each round the model reasons about every training pair, in both orders, several times. `star` then raises the
likelihood of rationale and letter where the letter was right. `star_dpo` prefers a right one to a wrong one about the
same question, by DPO against the model that the round began with:

    L = −log σ(β [log π(right) − log π₀(right) − log π(wrong) + log π₀(wrong)])

As a reward it scores by the log-odds of the letters' mean probability over `votes` rationales.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from morlaif.data.control import plain_ids
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.feedback.local import LetterModel, Stem
from morlaif.feedback.prompt import thinking_messages
from morlaif.feedback.reasoning import Reasoner
from morlaif.feedback.settings import Principle, Thoughts, ThoughtSettings
from morlaif.preference.genrm import GenerativeRM
from morlaif.settings import Count, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOOR = 1e-6  # of a probability that a log is taken of


@dataclass(frozen=True)
class Reasoning:
    """One sampled answer to a question."""

    question: int
    prompt: list[int]  # ids
    completion: list[int]  # of the rationale, the closing words and the letter
    right: bool

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion)


class ReasoningRM(GenerativeRM):
    """A model for each principle, as `GenerativeRM`, that is asked to reason first."""

    def __init__(
        self,
        *,
        method: Literal["star", "star_dpo"] = "star_dpo",
        rounds: Count = 3,
        samples: Count = 4,
        max_tokens: Thoughts = 128,
        temperature: Positive = 1.0,
        beta: Positive = 1.0,
        votes: Count = 8,
        **of_model: Any,
    ) -> None:
        """
        Args:
            method: what is learnt from the samples of a round.
            rounds: of sampling and learning, `epochs` passes each.
            samples: rationales to each question in each round.
            max_tokens, temperature: of a rationale.
            beta: of DPO.
            votes: rationales for a score.
            of_model: parameters of `GenerativeRM`; labels are hard, so a tie is not learnt from.
        """
        if of_model.pop("soft", False):
            raise UserError("pm.params.soft: a rationale is right or wrong, by the letter of the verdict: give false")
        super().__init__(soft=False, **of_model)
        self.method, self.rounds, self.beta = method, rounds, beta
        self._thought = ThoughtSettings(max_tokens=max_tokens, samples=samples, temperature=temperature)
        self._voting = self._thought.model_copy(update={"samples": votes})

    def _asks(self, messages: Sequence[Message], a: str, b: str, asked: Principle) -> list[Message]:
        return thinking_messages(messages, a, b, asked)

    def _room(self, engine: LetterModel) -> int:
        return Reasoner(engine, self._thought).room + 1

    def _gaps(self, engine: LetterModel, stems: Sequence[Stem]) -> list[float]:
        """Of the mean probability of each letter over the votes."""
        seeds = [[_seed(stem)] for stem in stems]  # a question's own, so that its score is the same beside any others
        gaps = []
        for (votes,) in Reasoner(engine, self._voting).ask(stems, seeds):
            a, b = (sum(math.exp(vote.logprobs[letter]) for vote in votes) / len(votes) for letter in (0, 1))
            gaps.append(math.log(max(a, FLOOR)) - math.log(max(b, FLOOR)))
        return gaps

    def _learn(self, engine: LetterModel, questions: Sequence[tuple[Stem, float]], seed: int) -> PreTrainedModel:
        model = self._learning(engine)
        for number in range(self.rounds):
            found = sampled(engine, questions, self._thought, seed + 1_000_003 * number)
            if self.method == "star":
                kept = [one for one in found if one.right]
                self._fit(model, kept, seed + number, lambda rows: -self._log(engine, rows), lambda row: row.tokens)
            else:
                pairs = preferred(found)
                before = [self._read(engine, [pair[side] for pair in pairs]) for side in (0, 1)]
                told = list(zip(pairs, *before, strict=True))
                self._fit(model, told, seed + number, lambda rows: self._dpo(engine, rows), _tokens_of_pair)
        return self._whole(model)

    def _log(self, engine: LetterModel, batch: Sequence[Reasoning]) -> Tensor:
        return completion_logprobs(engine, [(one.prompt, one.completion) for one in batch])

    def _read(self, engine: LetterModel, rows: Sequence[Reasoning]) -> list[float]:
        with torch.inference_mode():
            parts = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
            return [value for part in parts for value in self._log(engine, part).tolist()]

    def _dpo(self, engine: LetterModel, batch: Sequence[tuple[tuple[Reasoning, Reasoning], float, float]]) -> Tensor:
        pairs, right0, wrong0 = zip(*batch, strict=True)
        right, wrong = (self._log(engine, [pair[side] for pair in pairs]) for side in (0, 1))
        return rationale_dpo(right, wrong, torch.tensor(right0), torch.tensor(wrong0), self.beta)


def _tokens_of_pair(row: tuple[tuple[Reasoning, Reasoning], float, float]) -> int:
    return sum(side.tokens for side in row[0])


def _seed(stem: Stem) -> int:
    ids = ",".join(map(str, stem.prefix + stem.endings[0]))
    return int.from_bytes(hashlib.sha256(ids.encode()).digest()[:7])


def sampled(
    engine: LetterModel, questions: Sequence[tuple[Stem, float]], thought: ThoughtSettings, seed: int
) -> list[Reasoning]:
    """The model's own reasoning about each question, `thought.samples` times."""
    reasoner = Reasoner(engine, thought)
    seeds = [[seed + place * thought.samples] for place in range(len(questions))]
    letters = [_letter(engine, letter) for letter in "AB"]
    made = []
    asked = reasoner.ask([stem for stem, _ in questions], seeds)
    for place, ((stem, label), (samples,)) in enumerate(zip(questions, asked, strict=True)):
        for one in samples:
            says_a = one.logprobs[0] > one.logprobs[1]
            completion = one.ids + reasoner.closing + [letters[0 if says_a else 1]]
            made.append(Reasoning(place, stem.prefix + stem.endings[0], completion, says_a == (label > 0.5)))
    return made


def _letter(engine: LetterModel, letter: str) -> int:
    """The token that says it behind the closing words: with the blank before it where that is one token."""
    whole = plain_ids(engine.tokenizer, f" {letter}")
    return whole[0] if len(whole) == 1 else plain_ids(engine.tokenizer, letter)[-1]


def preferred(found: Sequence[Reasoning]) -> list[tuple[Reasoning, Reasoning]]:
    """Right over wrong about the same question: the first with the first, and so on, as many as there are of both."""
    by_question: dict[int, tuple[list[Reasoning], list[Reasoning]]] = {}
    for one in found:
        by_question.setdefault(one.question, ([], []))[0 if one.right else 1].append(one)
    return [pair for right, wrong in by_question.values() for pair in zip(right, wrong, strict=False)]


def rationale_dpo(right: Tensor, wrong: Tensor, right0: Tensor, wrong0: Tensor, beta: float) -> Tensor:
    """(N,) −log σ(β [(right − right0) − (wrong − wrong0)]) from log-probabilities under the model and before it."""
    moved = (right - right0.to(right)) - (wrong - wrong0.to(wrong))
    return -F.logsigmoid(beta * moved)


def completion_logprobs(engine: LetterModel, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """(N,) log-probability of each completion behind its prompt, both as ids, summed over its tokens."""
    ids, mask = engine.padded([prompt + completion for prompt, completion in rows], left=False)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    owner = [row for row, (_, completion) in enumerate(rows) for _ in completion]
    before = [len(prompt) - 1 + place for prompt, completion in rows for place in range(len(completion))]
    said = torch.tensor([token for _, completion in rows for token in completion], device=ids.device)
    logits = engine.forward(ids, mask, positions, None, before, owner).float()
    each = -F.cross_entropy(logits, said, reduction="none")
    return each.new_zeros(len(rows)).index_add(0, torch.tensor(owner, device=ids.device), each)
