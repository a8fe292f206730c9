"""What a unit reads that scores responses as an arm's policy is rewarded, and the arm's method itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from morlaif.feedback.settings import Criterion, FeedbackSettings
from morlaif.reward.settings import Column, PMReward, RewardLayout
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.settings import Settings
from morlaif.stages.places import Places
from morlaif.units.job import N, R, Reads
from morlaif.units.unit import Stage


@dataclass(frozen=True, kw_only=True)
class ScoringReads(Reads):
    """Of preference models alone, no more than their names: the unit needs theirs."""

    @property
    def rated(self) -> tuple[int, int] | None:
        """How many responses the unit scores in all, and the most tokens of one; None: not known."""
        return None

    names: tuple[str, ...]  # of the columns of the scores
    places: Places
    reward: RewardLayout | None = None
    criteria: tuple[Criterion, ...] | None = None  # how judges are asked for a rating
    feedback: FeedbackSettings | None = None  # the run's judge, where it rates

    @property
    def layout(self) -> RewardLayout:
        if self.reward is not None:
            return self.reward
        columns = tuple(Column(name=name, part="", own=name, weight=1.0, of=()) for name in self.names)
        return RewardLayout(reward=PMReward(kind="pm", principles=None, draw=None, written={}), columns=columns)


@dataclass(frozen=True, kw_only=True)
class MethodReads(ScoringReads):
    scalarizer: ScalarizerSettings


@dataclass(frozen=True)
class MethodNeeds:
    data: Path
    sft: Path
    weigh: Path
    pm: Mapping[str, Path]


class Method(Stage[R, N]):
    """A stage that makes the policy of an arm. Its `needs` name the stages that it wants of the arm.

    It leaves a policy that `models.load.load_policy` reads, and curve.jsonl: a row {step, reward, kl} for each step.
    A policy that is no model leaves `evaluation.policies.ANSWERS` in its place. Where a row has `kl_bound`, its `kl` is
    no estimate but a bound.
    """

    seeded_by: ClassVar[str] = ""  # the group whose seed it draws from; "": that of its own name

    needs: ClassVar[type] = MethodNeeds
    artifact: ClassVar[str | None] = "model"
    loads_model = True
    paired = True

    def rounds(self, reads: R) -> int | None:
        """How many units one after another make the policy, the last of them the arm's own; None: one alone.

        Each has its number as `round` in what it reads, and needs the one before, in a field of its needs that is
        called as the method.
        """
        return None

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        """Further fields of its `reads`.

        Args:
            groups: of the run's config, by name, with what the arm has changed.
            params: of the arm's definition.
        """
        return {**params}
