"""Settings of model, fine-tuning and responses; `conf/model`, `conf/sft` and `conf/respond` hold every default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from morlaif.settings import (
    NUMBER,
    Batch,
    Coefficient,
    Count,
    Decay,
    Label,
    LearningRate,
    Line,
    Names,
    NonNegative,
    Outside,
    PathText,
    Positive,
    Probability,
    Seeded,
    Settings,
    Share,
    Size,
    Stop,
    Temperature,
    Tokens,
)


class ScratchSettings(Settings):
    """A Llama and a byte-level BPE tokenizer made from nothing, trained on the dialogues of the data."""

    vocab_size: Annotated[int, Field(ge=260, le=2**20), NUMBER]  # 256 bytes and the special tokens at least
    hidden_size: Size
    layers: Size
    heads: Size
    intermediate_size: Size
    max_positions: Tokens
    tie_embeddings: bool
    init_std: Share

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} over {self.heads} heads must give an even whole number a head"
            )
        return self


class ModelSettings(Settings):
    outside_digest: ClassVar[frozenset[str]] = frozenset({"name", "path", "revision", "trust_remote_code", "min_ended"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"min_ended": (0.5,)}  # of pages
    reads_outside: ClassVar[Mapping[str, Outside]] = {"path": "model"}

    name: Label
    path: PathText | None  # a folder or a hub id …
    revision: Line | None
    trust_remote_code: bool
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    scratch: ScratchSettings | None  # … or a model made here
    min_ended: Probability  # share of its responses below which a run says how few of them end by themselves

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("name") is not None:
            return values
        if values.get("path") is None and values.get("scratch") is None:
            raise ValueError("which one? Give model.path=<folder or hub id>, or a preset such as model=qwen3_0_6b")
        path = values.get("path")
        return {**values, "name": path.rstrip("/").rpartition("/")[2] or path} if isinstance(path, str) else values

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give either `path` (a folder or a hub id) or `scratch`, and null for the other")
        return self


class LoRASettings(Settings):
    r: Size
    alpha: Positive
    dropout: Decay
    target_modules: Literal["all-linear"] | Names


class _Training(Seeded):
    outside_digest: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every", "log_every", "gradient_checkpointing", "micro_batch_size"}
    )

    learning_rate: LearningRate
    scheduler: Literal["linear", "cosine", "constant"]
    warmup: NonNegative  # below 1 a share of all steps, else a number of steps
    epochs: Positive
    max_steps: Count | None  # counts instead of `epochs`
    batch_size: Batch  # sequences of an optimizer step
    micro_batch_size: Batch | None  # at most so many in a forward pass of each rank; null: its whole share
    max_length: Annotated[Tokens, Field(ge=2)]
    weight_decay: Coefficient
    adam_beta2: Annotated[Decay, Field(gt=0)]
    max_grad_norm: Positive
    gradient_checkpointing: bool
    checkpoint_every: Count | None  # steps between resumable checkpoints
    log_every: Count


class NoSFT(Seeded):
    method: Literal["none"]


class FullSFT(_Training):
    method: Literal["full"]


class LoRASFT(_Training):
    method: Literal["lora"]
    lora: LoRASettings


class AutoSFT(_Training):
    """As lora for a base model, none for one that is tuned already: settled before a run is planned."""

    method: Literal["auto"]
    lora: LoRASettings

    def lora_sft(self) -> LoRASFT:
        return LoRASFT(**{**dict(self), "method": "lora"})


SFTSettings = Annotated[NoSFT | FullSFT | LoRASFT, Field(discriminator="method")]
GivenSFT = Annotated[NoSFT | FullSFT | LoRASFT | AutoSFT, Field(discriminator="method")]  # as a config has it


class SampleResponses(Seeded):
    """Two distinct samples of the fine-tuned model for each prompt."""

    source: Literal["sample"]
    temperature: Temperature
    top_p: Share
    max_prompt_tokens: Tokens | None
    max_new_tokens: Tokens
    stop: tuple[Stop, ...]
    batch_size: Batch
    attempts: Annotated[int, Field(ge=1, le=1000), NUMBER]  # draws of the second response before a prompt is given up


class PairResponses(Seeded):
    """The source's own pair for each prompt."""

    source: Literal["pairs"]


RespondSettings = Annotated[SampleResponses | PairResponses, Field(discriminator="source")]
