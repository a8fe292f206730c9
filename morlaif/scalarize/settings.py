"""Settings of the groups `scalarizer` and `weights`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from morlaif.settings import Settings


class ScalarizerSettings(Settings):
    """Which function turns K weighted scores into one, and its parameters (checked by `morlaif.scalarize.registry`)."""

    name: str
    function: str  # dotted path of a function (B, K) -> (B,), ours or the user's
    params: dict[str, Any]  # the function's keyword parameters


class WeightsSettings(Settings):
    """How each principle's score is normalised and weighed before the scalarizer."""

    method: Literal["equal", "given", "regressed"]
    values: dict[str, float] | None  # method "given": a weight for each principle; negative flips the score
    zero: list[str]  # principles whose weight becomes 0 after all else: they leave the objective
    normalizer: Literal["frozen", "none"]  # frozen: mean and deviation on responses of the SFT model
    prompts: Annotated[int, Field(ge=2)]  # how many SFT responses the frozen statistics are taken from
    temperature: Annotated[float, Field(ge=0)]  # sampling, where the responses must be generated
    max_prompt_tokens: Annotated[int, Field(gt=0)]  # longer prompts lose their beginning
    max_new_tokens: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]  # rows generated at once
    regression_pairs: Annotated[int, Field(ge=2)] | None  # method "regressed": at most so many human-labelled pairs
    significance: Annotated[float, Field(gt=0, lt=1)]  # of the coefficients' intervals: .05 gives 95 %

    @model_validator(mode="after")
    def _values_belong_to_given(self) -> WeightsSettings:
        if (self.method == "given") != (self.values is not None):
            raise ValueError("`values` belongs to method 'given' and to it alone: set it there, null otherwise")
        return self
