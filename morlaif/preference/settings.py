"""Settings of the group `pm`: one class for each kind of preference model, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from morlaif.settings import Settings

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class LoraSettings(Settings):
    """Low-rank adapters, as in peft."""

    r: Count
    alpha: Positive  # the update is scaled by alpha / r
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Literal["all-linear"] | list[str]  # names of the adapted layers


class TrainedPM(Settings):
    """What every kind that is trained on verdicts has in common."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"gradient_checkpointing"})

    base: str | None  # null: the SFT model; else a folder or a hub name
    revision: str | None  # of a hub base
    pooling: Literal["last", "mean"]  # which token states the head reads
    loss: Literal["soft", "margin"]
    margin_scale: Annotated[float, Field(ge=0)]  # loss "margin": logit gap of the judge times this is the margin
    center: Annotated[float, Field(ge=0)]  # weight of the penalty (s_first + s_second)^2
    ties: Literal["keep", "drop"]  # verdicts at exactly one half
    learning_rate: Positive
    head_learning_rate: Positive  # of the scalar head, which starts from nothing and may need larger steps
    schedule: Literal["cosine", "linear", "constant"]
    warmup_steps: Annotated[int, Field(ge=0)]  # at most half of all steps
    epochs: Count
    batch_size: Count  # pairs for each optimizer step
    micro_batch_size: Count | None  # pairs for each forward; null: the whole batch
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    max_length: Annotated[int, Field(ge=8)]  # tokens of prompt and response; the prompt is cut on the left
    gradient_checkpointing: bool

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainedPM:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"`micro_batch_size` must divide `batch_size` {self.batch_size}")
        return self


class LoraPM(TrainedPM):
    """One adapter and one scalar head for each principle, over a shared frozen base."""

    kind: Literal["lora"]
    lora: LoraSettings


class FullPM(TrainedPM):
    """A whole model for each principle."""

    kind: Literal["full"]


PMSettings = Annotated[LoraPM | FullPM, Field(discriminator="kind")]
