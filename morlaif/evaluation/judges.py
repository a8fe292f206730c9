"""Who decides which of two responses is better. Every judge answers for both orders of presentation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.special import expit

from morlaif.data.records import Message, Pair
from morlaif.errors import MachineError, UserError
from morlaif.evaluation.settings import HfJudge, OpenAIJudge, PluginJudge
from morlaif.feedback.information import information
from morlaif.feedback.judge import at_home, open_judge
from morlaif.feedback.label import Progress, label_with
from morlaif.feedback.records import Verdict
from morlaif.feedback.settings import Principle
from morlaif.statistics import Array
from morlaif.texts import visible
from morlaif.toy import judge as toy
from morlaif.toy.world import human_utility

log = logging.getLogger("morlaif.evaluation")

Asked = OpenAIJudge | HfJudge | PluginJudge
Score = Callable[[Sequence[list[Message]], Sequence[str]], Array]  # prompts, responses -> (N,) or (N, K)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Probability that the first candidate is better, for N prompts."""

    forward: Array  # (N,) with the first candidate shown first
    backward: Array  # (N,) with the first candidate shown second
    valid: Array  # (N,) bool: whether there is a verdict


class PolicyJudge(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def cost(self) -> Mapping[str, float]:
        """input_tokens, output_tokens and usd of its verdicts so far; empty: it costs nothing."""

    @property
    def served(self) -> Mapping[str, Any] | None:
        """Which model answers, by its server; None without one."""

    @property
    def warnings(self) -> Sequence[str]:
        """What is wrong with its verdicts, as `feedback.information` finds."""

    def compare(self, prompts: Sequence[list[Message]], first: Sequence[str], second: Sequence[str]) -> Judgement:
        """Judge `first[i]` against `second[i]` as answers to `prompts[i]`."""


class _NoServer:
    """What a judge has that asks no language model."""

    cost: Mapping[str, float] = {}
    served = None
    warnings: Sequence[str] = ()


class UtilityJudge(_NoServer):
    """The toy world's own verdict: the response of the higher hidden human utility wins, equal ones tie.

    It is over all principles of that world, whichever a run uses: one yardstick for all runs, and no run's objective.
    Rules see no order, so both orders agree by construction.
    """

    name = "human utility"

    def compare(self, prompts: Sequence[list[Message]], first: Sequence[str], second: Sequence[str]) -> Judgement:
        verdict = side(utilities(prompts, first) - utilities(prompts, second))
        return Judgement(verdict, verdict, np.ones(len(verdict), dtype=bool))


class ScoreJudge(_NoServer):
    """A preference model: σ(score of the first − score of the second). It reads one response at a time, so order plays
    no part."""

    name = "pm"

    def __init__(self, score: Score) -> None:
        self._score = score

    def compare(self, prompts: Sequence[list[Message]], first: Sequence[str], second: Sequence[str]) -> Judgement:
        p = expit(self._score(prompts, first) - self._score(prompts, second))
        return Judgement(p, p, np.ones(len(p), dtype=bool))


class EngineJudge:
    """A source of feedback, asked in both orders of presentation. Equal responses tie without a question."""

    def __init__(self, settings: Asked, *, ledger: Path, seed: int, on_progress: Progress) -> None:
        self.name = _name(settings)
        self.cost: dict[str, float] = {}
        self.served: Mapping[str, Any] | None = None
        self.warnings: list[str] = []
        self._engine, self._ledger, self._seed, self._on_progress = settings.engine, ledger, seed, on_progress
        self._question = Principle(
            name="overall",
            question=settings.question,
            description=settings.description,
            covers=("overall",),
        )

    def compare(self, prompts: Sequence[list[Message]], first: Sequence[str], second: Sequence[str]) -> Judgement:
        from morlaif import ranks  # torch, which whoever only wants an estimate does without

        pairs = [Pair.of(*row) for row in zip(prompts, first, second, strict=True)]
        asked = list({pair.id: pair for pair in pairs if pair.first != pair.second}.values())
        answers = ranks.on_first(lambda: self._label(asked), patiently=True)
        verdicts = {verdict.pair_id: verdict for verdict in answers}
        for kind in ("input_tokens", "output_tokens", "usd"):
            self.cost[kind] = self.cost.get(kind, 0) + sum(getattr(verdict, kind) for verdict in answers)
        self._look_at([verdict for verdict in answers if verdict.valid])
        forward, backward, valid = (np.full(len(pairs), x) for x in (0.5, 0.5, True))
        for row, pair in enumerate(pairs):
            if (verdict := verdicts.get(pair.id)) is None:
                valid[row] = pair.first == pair.second
                continue
            valid[row] = verdict.valid
            if verdict.valid and verdict.d_forward is not None and verdict.d_backward is not None:
                forward[row], backward[row] = expit(verdict.d_forward), expit(-verdict.d_backward)
        return Judgement(forward, backward, valid)

    def _label(self, asked: Sequence[Pair]) -> list[Verdict]:
        judge = open_judge(self._engine, ledger=self._ledger, seed=self._seed)
        try:
            answers = label_with(judge, asked, lambda _: (self._question,), self._on_progress)
        except (UserError, MachineError) as error:
            raise at_home(error, "eval.judge.engine") from None
        self.served = judge.usage.served or self.served
        return answers

    def _look_at(self, valid: Sequence[Verdict]) -> None:
        """A judge that only picks a place decides every comparison by chance; no win rate shows that."""
        p, forward, backward = ([getattr(v, name) for v in valid] for name in ("p_first", "d_forward", "d_backward"))
        found = information(p, forward, backward)
        for warning in found.warnings:
            self.warnings.append(warning)
            log.warning(visible(f"WARNING: evaluate: {self.name} {warning}. Its win rates say nothing."))


def _name(settings: Asked) -> str:
    match settings:
        case OpenAIJudge():
            return f"openai:{settings.engine.model}"
        case HfJudge():
            return f"hf:{settings.engine.path}"
        case PluginJudge():
            return f"plugin:{settings.engine.source}"


def true_scores(
    prompts: Sequence[list[Message]], responses: Sequence[str], principles: Mapping[str, Sequence[str]]
) -> Array:
    """The toy judge's scores (N, K), for each principle the mean over the toy principles it covers."""
    return np.array(
        [
            [np.mean([toy.score(name, messages, text) for name in covers]) for covers in principles.values()]
            for messages, text in zip(prompts, responses, strict=True)
        ]
    ).reshape(len(responses), len(principles))


def utilities(prompts: Sequence[list[Message]], responses: Sequence[str]) -> Array:
    """The hidden human utility (N,) of the toy world's responses, in log-odds."""
    return np.array([human_utility(*row) for row in zip(prompts, responses, strict=True)], dtype=float)


def side(gap: Array) -> Array:
    """1 where the first is better (`gap` > 0), 0 where the second is, ½ where they are equal up to rounding."""
    return (np.sign(np.where(np.abs(gap) < 1e-9, 0.0, gap)) + 1) / 2
