"""Settings of the groups `scalarizer` and `weights`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from morlaif.errors import UserError, suggest
from morlaif.settings import (
    DISTINCT,
    Batch,
    Count,
    GreedyTemperature,
    Label,
    Line,
    Number,
    Outside,
    Params,
    Part,
    Settings,
    Tokens,
)

Normalizer = Literal["none", "frozen", "running", "group"]


class ScalarizerSettings(Settings):
    """Which function turns K weighted scores into one, and its parameters (checked by `morlaif.scalarize.registry`)."""

    outside_digest = frozenset({"name"})
    reads_outside: ClassVar[Mapping[str, Outside]] = {"function": "function"}

    name: Label
    function: Line  # dotted path of a function (B, K) -> (B,), ours or the user's
    params: Params  # the function's keyword parameters


class WeightsSettings(Settings):
    """How each principle's score is normalised and weighed before the scalarizer."""

    method: Literal["equal", "given", "regressed"]
    values: dict[Line, Number] | None  # method "given": a weight for each principle; negative flips the score
    zero: Annotated[list[Line], DISTINCT]  # principles whose weight becomes 0 after all else: they leave the objective
    normalizer: Normalizer  # what centres and scales: see `morlaif.scalarize.objective`
    prompts: Annotated[Batch, Field(ge=2)]  # how many SFT responses the frozen statistics are taken from
    temperature: GreedyTemperature  # sampling, where the responses must be generated
    max_prompt_tokens: Tokens  # longer prompts lose their beginning
    max_new_tokens: Tokens
    batch_size: Batch  # rows generated at once
    regression_pairs: Annotated[Count, Field(ge=2)] | None  # method "regressed": at most so many human-labelled pairs
    significance: Part  # of the coefficients' intervals: .05 gives 95 %

    @model_validator(mode="after")
    def _values_belong_to_given(self) -> WeightsSettings:
        if (self.method == "given") != (self.values is not None):
            raise ValueError("`values` belongs to method 'given' and to it alone: set it there, null otherwise")
        return self

    def zeroed(self, names: Sequence[str]) -> list[str]:
        """Which of the models `names` leave the objective. A lone one always stays: it is the objective."""
        return [name for name in self.zero if name in names] if len(names) > 1 else []

    def given(self, names: Sequence[str]) -> list[float]:
        """Method "given": the weight of each of `names`; a missing one is an error, never a zero."""
        values = self.values or {}
        for name in names:
            if name not in values:
                raise UserError(
                    f"weights.values has no weight for '{name}'; give it one (0 leaves it out).{suggest(name, values)}"
                )
        return [values[name] for name in names]

    def counting(self, names: Sequence[str]) -> list[str]:
        """Those of the principles `names` that reach the scalarizer, as far as it is known before any regression."""
        left_out = set(self.zeroed(names))
        if self.method == "given":
            left_out |= {name for name, value in zip(names, self.given(names), strict=True) if value == 0}
        counting = [name for name in names if name not in left_out]
        if not counting:
            raise UserError(f"weights: every principle of the run ({', '.join(names)}) has weight zero; keep one")
        return counting
