"""Settings of the methods that choose among samples; `conf/best_of_n`, `conf/rejection`, … hold every default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from morlaif.dpo.settings import DPOSettings
from morlaif.feedback.settings import OpenAISettings, PriceSettings
from morlaif.models.settings import FullSFT, LoRASFT
from morlaif.settings import (
    NUMBER,
    Batch,
    Coefficient,
    Count,
    Dollars,
    Line,
    Outside,
    PathText,
    Positive,
    Seeded,
    Settings,
    Share,
    Stop,
    Temperature,
    Tokens,
    Whole,
)

Samples = Annotated[int, Field(ge=1, le=4096), NUMBER]  # of one prompt
Training = Annotated[FullSFT | LoRASFT, Field(discriminator="method")]


class BestOfNSettings(Settings):
    """No training: the best of n responses of the SFT policy. How they are sampled is what the evaluation says."""

    n: Samples


class Sampling(Settings):
    """How a policy responds to training prompts."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    temperature: Temperature
    top_p: Share
    max_prompt_tokens: Tokens | None
    max_new_tokens: Tokens
    stop: tuple[Stop, ...]
    batch_size: Batch


class Rounds(Seeded):
    """Rounds of sampling and learning, a unit each: their number is in the digest of none."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"rounds"})

    rounds: Annotated[int, Field(ge=1, le=100), NUMBER]
    prompts: Count | None  # of a round; null: all
    eval_prompts: Whole  # that no round learns from
    sampling: Sampling


class Imitating(Settings):
    """A method that fine-tunes on chosen responses."""

    training: Training

    @model_validator(mode="after")
    def _seed_of_the_method(self) -> Imitating:
        if self.training.seed is not None:
            raise ValueError("training.seed: the method draws from a seed of its own; give that")
        return self


class RejectionSettings(Imitating, Rounds):
    """The best of n responses to each training prompt are imitated."""

    n: Samples
    start: Literal["policy", "sft"]


class OnlineDPOSettings(Rounds):
    """The best of n responses to each training prompt against the worst, by DPO."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"kl_coef": (0.0,)}

    n: Annotated[int, Field(ge=2, le=4096), NUMBER]
    pairs: Literal["max_min", "max_random"]
    length_ratio: Annotated[Positive, Field(ge=1)] | None
    reference: Literal["sft", "previous"]
    kl_coef: Coefficient  # of a nat, where responses are ranked, in deviations of the first round's rewards
    dpo: DPOSettings

    @model_validator(mode="after")
    def _seed_of_the_method(self) -> OnlineDPOSettings:
        if self.dpo.seed is not None:
            raise ValueError("dpo.seed: the method draws from online_dpo.seed; give that")
        if self.dpo.kind != "dpo":
            raise ValueError(
                f"dpo.kind: {self.dpo.kind} learns from verdicts; rounds rank by the arm's reward: give dpo"
            )
        if self.dpo.steer.kind != "none":
            raise ValueError("dpo.steer.kind: rounds rank by the arm's own weights; use method: dpo, or ppo")
        return self


class ToyTeacher(Settings):
    """One in the toy world, that knows what its people want: the best of so many responses of the grammar."""

    kind: Literal["toy"]
    draws: Samples
    price: PriceSettings  # for a word


class ModelTeacher(Settings):
    """A causal language model of your own, run here."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"path", "revision", "trust_remote_code"})
    reads_outside: ClassVar[Mapping[str, Outside]] = {"path": "model"}

    kind: Literal["model"]
    path: PathText | None  # must be given
    revision: Line | None
    trust_remote_code: bool


class ServerTeacher(Settings):
    """One behind a server that speaks OpenAI's chat completions."""

    kind: Literal["server"]
    engine: OpenAISettings


class TeacherSettings(Imitating, Seeded):
    """Supervised fine-tuning on a teacher's completions."""

    teacher: Annotated[ToyTeacher | ModelTeacher | ServerTeacher, Field(discriminator="kind")]
    share: Share  # of the training prompts
    usd: Dollars | None  # at most so much for them, in their order; null: for all
    eval_prompts: Whole
    sampling: Sampling
