"""Settings of the evaluation; `conf/eval/*.yaml` holds every default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from morlaif.feedback.settings import OpenAISettings
from morlaif.settings import Settings

Count = Annotated[int, Field(gt=0)]


class RulesJudge(Settings):
    """The toy world's exact judge: the better response has the higher mean true score over the run's principles."""

    source: Literal["rules"]


class OpenAIJudge(Settings):
    """A language model, asked by the feedback engine in both orders; its verdicts are kept in the ledger."""

    source: Literal["openai"]
    engine: OpenAISettings
    question: Annotated[str, Field(min_length=1)]
    description: str


class PMJudge(Settings):
    """A preference model trained on the human labels of the held-out pairs (unit `pm/gold`), unseen by any policy."""

    source: Literal["pm"]


JudgeSettings = Annotated[RulesJudge | OpenAIJudge | PMJudge, Field(discriminator="source")]


class EvalSettings(Settings):
    prompts: Count  # held-out prompts on which policies are compared
    scored: Count  # of them, those whose responses the preference models score
    pairs: Count | None  # held-out pairs on which preference models and objectives are compared; null: all
    temperature: Annotated[float, Field(ge=0)]  # 0 is greedy
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_prompt_tokens: Count | None
    max_new_tokens: Count
    stop: tuple[str, ...]
    batch_size: Count
    judge: JudgeSettings
    confidence: Annotated[float, Field(gt=0, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    samples: Annotated[int, Field(ge=0)]  # prompts whose responses are kept for the report

    @model_validator(mode="after")
    def _samples_are_scored(self) -> EvalSettings:
        if self.samples > self.scored:
            raise ValueError(f"samples: {self.samples} are shown with their scores, but `scored` is {self.scored}")
        return self
