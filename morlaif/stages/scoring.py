"""What a unit reads that scores responses as an arm's policy is rewarded, and the arm's method itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
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

    It leaves a policy that `models.load.load_policy` reads, and curve.jsonl: a row {step, reward, kl} for each step, of
    which all but the last may lack the KL. A policy that is no model leaves `evaluation.policies.ANSWERS` in its place.
    Where a row has `kl_bound`, its `kl` is no estimate but a bound.
    """

    rewarded: ClassVar[bool] = True  # whether the arm's reward is used: else nothing is labelled or weighed for it
    may_start: ClassVar[bool] = False  # whether an arm may have it begin from a teacher's policy; its needs name that
    seeded_by: ClassVar[str] = ""  # the group whose seed it draws from; "": that of its own name
    verdicts: ClassVar[bool] = False  # whether it learns from the arm's verdicts themselves

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

    def wanted(self, reads: R) -> Sequence[str]:
        """The fields of its `needs` that it wants units for: all of them."""
        return [part.name for part in fields(self.needs)]

    def problems(self, reads: R) -> Iterator[str]:
        """What is wrong with what it is to read, which shows before anything is built, a line each."""
        return iter(())

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        """Further fields of its `reads`.

        Args:
            groups: of the run's config, by name, with what the arm has changed.
            params: of the arm's definition.
        """
        return {**params}
