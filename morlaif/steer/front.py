"""Settings of the group `front`: policies for many weights of the same objectives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from morlaif.settings import DISTINCT, NUMBER, Count, Line, Lines, Outside, Settings

Merge = Literal["delta", "factors"]
Way = Literal["soup", "direct", "conditioned"]
MOST_POINTS = 200  # each is answered, scored and judged, and in the way `direct` trained


class SoupSettings(Settings):
    """How policies are merged; see `morlaif.steer.soup`."""

    reads_outside: ClassVar[Mapping[str, Outside]] = {"by_depth": "function"}

    merge: Merge  # of adapters
    by_depth: Line | None  # dotted path of a function (depth, weights) -> weights


class FrontSettings(Settings):
    objectives: Lines  # principles, or names of `groups`; none: no front
    groups: dict[Line, Annotated[Lines, Field(min_length=1)]]  # principles that are one objective together
    steps: Annotated[int, Field(ge=1, le=100), NUMBER]  # from one objective alone to another
    ways: Annotated[tuple[Way, ...], Field(min_length=1), DISTINCT]
    arm: Line  # whose labels, reward and method the policies have
    conditioned: Line  # the arm of the one policy for all weights
    scalarizer: Line | None  # a preset; null: the arm's
    prompts: Count | None  # held-out ones that are answered at each point; null: those of the evaluation
    soup: SoupSettings

    @field_validator("objectives")
    @classmethod
    def _called_as_units_are(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) == 1:
            raise ValueError("names one objective; a front lies between two or more, or give [] for none")
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]*[a-z]", name):
                raise ValueError(f"'{name}': small letters, digits and underscores, a letter at both ends")
        return value

    @model_validator(mode="after")
    def _few_points(self) -> FrontSettings:
        if self.objectives and self.points > MOST_POINTS:
            many = f"{self.points:,} points for {len(self.objectives)} objectives in {self.steps} steps"
            raise ValueError(f"steps: {many}; take fewer steps, for at most {MOST_POINTS} points")
        return self

    @property
    def points(self) -> int:
        return math.comb(self.steps + len(self.objectives) - 1, self.steps) if self.objectives else 0

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The principles of each objective, by name."""
        return {name: self.groups.get(name, (name,)) for name in self.objectives}

    @property
    def principles(self) -> list[str]:
        """Of all objectives, each once."""
        return list(dict.fromkeys(name for own in self.parts.values() for name in own))


def spread(parts: Mapping[str, Sequence[str]], weights: Sequence[float]) -> dict[str, float]:
    """The weight of each principle where objectives, each of the principles `parts`, have `weights`: an objective's is
    shared by its own."""
    found = dict.fromkeys((name for own in parts.values() for name in own), 0.0)
    for own, weight in zip(parts.values(), weights, strict=True):
        for name in own:
            found[name] += weight / len(own)
    return found
