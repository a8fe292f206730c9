"""Settings of the evaluation; `conf/eval/*.yaml` holds every default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from morlaif.errors import suggest
from morlaif.evaluation.outside import parts_of
from morlaif.feedback.settings import Covers, HfSettings, OpenAISettings, PluginFeedback
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.settings import (
    NUMBER,
    Batch,
    Count,
    GreedyTemperature,
    Line,
    Number,
    Part,
    PathText,
    Seeded,
    Settings,
    Share,
    Stop,
    Text,
    Tokens,
    Whole,
)

# No _, since keys read "first_vs_second".
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$", max_length=100)]
TAKEN = ("sft", "policy", "gold")


class RulesJudge(Settings):
    """The toy world's exact judge: the better response has the higher hidden human utility, over all principles of
    that world, whichever the run uses."""

    source: Literal["rules"]


class _EngineJudge(Settings):
    """A source of feedback, asked in both orders; verdicts that cost money or time are kept in the ledger."""

    question: Text
    description: Text

    @model_validator(mode="after")
    def _seed_of_the_evaluation(self) -> _EngineJudge:
        if getattr(getattr(self, "engine", None), "seed", None) is not None:
            raise ValueError("engine.seed: a judge of policies draws from eval.seed; give that")
        return self


class OpenAIJudge(_EngineJudge):
    """One behind a server."""

    source: Literal["openai"]
    engine: OpenAISettings


class HfJudge(_EngineJudge):
    """One that runs here."""

    source: Literal["hf"]
    engine: HfSettings


class PluginJudge(_EngineJudge):
    """One in a package of the user's."""

    source: Literal["plugin"]
    engine: PluginFeedback


class PMJudge(Settings):
    """A preference model trained on the human labels of the held-out pairs (unit `pm/gold`), unseen by any policy."""

    source: Literal["pm"]


JudgeSettings = Annotated[RulesJudge | OpenAIJudge | HfJudge | PluginJudge | PMJudge, Field(discriminator="source")]


class Answering(Settings):
    """How a policy answers the held-out prompts: the same for all policies of an evaluation."""

    prompts: Count
    temperature: GreedyTemperature
    top_p: Share
    max_prompt_tokens: Tokens | None
    max_new_tokens: Tokens
    stop: tuple[Stop, ...]
    batch_size: Batch


class CheckSettings(Settings):
    """A question about one response that the judge answers with yes or no; yes is the good answer."""

    question: Text
    covers: Covers


class EvalSettings(Seeded):
    # what the files hold counts, not where they lie
    outside_digest = frozenset({"policies", "trust_remote_code", "rewardbench"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"agreement": (0,), "rates": ({},), "kept": (False,)}

    prompts: Count  # held-out prompts on which policies are compared
    scored: Count  # of them, those whose responses the preference models score
    pairs: Count | None  # held-out pairs on which preference models and objectives are compared; null: all
    agreement: Whole  # pairs with human labels on which the judge is compared with people; 0: none
    kept: bool  # whether policies that were kept while they learnt answer too
    temperature: GreedyTemperature  # 0 is greedy
    top_p: Share
    max_prompt_tokens: Tokens | None
    max_new_tokens: Tokens
    stop: tuple[Stop, ...]
    batch_size: Batch
    judge: JudgeSettings
    rates: dict[Line, CheckSettings]  # of responses of which the judge says yes to a question about the one
    policies: dict[Name, PathText]  # further ones to compare with: a folder or a hub id
    trust_remote_code: tuple[Name, ...]  # those of `policies` that may run Python of their own
    scalarizers: dict[Line, ScalarizerSettings]  # whose accuracy over the same preference models is reported too
    ablation_subsets: Annotated[int, Field(ge=1, le=10_000), NUMBER]  # random subsets of the principles of each size
    reference: Annotated[Number, Field(lt=0)]  # of the hypervolume, in deviations of SFT's scores
    rewardbench: PathText | None  # a JSONL of prompt, chosen, rejected (and subset)
    confidence: Part
    resamples: Annotated[int, Field(ge=100, le=10**6), NUMBER]
    samples: Whole  # prompts whose responses are kept for the report

    def pinned(self, commit: Callable[[str, str | None], str | None]) -> dict[str, Any]:
        if not self.policies:
            return {}
        parts = {name: parts_of(where) for name, where in self.policies.items()}
        pairs = {name: (path, commit(path, revision)) for name, (path, revision) in parts.items()}
        return {"policies": {name: path if at is None else f"{path}@{at}" for name, (path, at) in pairs.items()}}

    @property
    def answering(self) -> Answering:
        return Answering(**{name: getattr(self, name) for name in Answering.model_fields})

    @field_validator("policies")
    @classmethod
    def _free_names(cls, policies: dict[str, str]) -> dict[str, str]:
        for name in policies:
            if name in TAKEN:
                raise ValueError(f"'{name}' names a policy of the run itself; call the other one something else")
        return policies

    @model_validator(mode="after")
    def _trusted_are_compared(self) -> EvalSettings:
        for name in self.trust_remote_code:
            if name not in self.policies:
                hint = suggest(name, self.policies)
                raise ValueError(f"trust_remote_code: no policy '{name}' among `policies`.{hint}")
        return self

    @model_validator(mode="after")
    def _judge_says_yes_or_no(self) -> EvalSettings:
        if self.rates and isinstance(self.judge, PMJudge | PluginJudge):
            raise ValueError(
                f"rates: judge.source={self.judge.source} says which of two responses is better, and nothing of one; "
                "use eval=hf, eval=default, eval=server, or eval=toy in the toy world"
            )
        return self

    @model_validator(mode="after")
    def _samples_are_scored(self) -> EvalSettings:
        if self.samples > self.scored:
            raise ValueError(f"samples: {self.samples} are shown with their scores, but `scored` is {self.scored}")
        return self
