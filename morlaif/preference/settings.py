"""Settings of the group `pm`: one class for each kind of preference model, distinguished by `kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from morlaif.models.place import Source
from morlaif.models.settings import LoRASettings
from morlaif.registry import Registry
from morlaif.settings import (
    DISTINCT,
    NUMBER,
    Batch,
    Coefficient,
    Count,
    LearningRate,
    Line,
    NonNegative,
    OneOf,
    Outside,
    Params,
    Part,
    PathText,
    Positive,
    Probability,
    Seeded,
    Settings,
    Share,
    Text,
    Tokens,
    Whole,
)

KINDS: Registry[Any] = Registry(  # of `kind.Kind`, each made of its settings
    kind="preference_model",
    key="pm.kind",
    home="morlaif.preference.kinds",
    known={
        "lora": "morlaif.preference.kinds.Lora",
        "trunk": "morlaif.preference.kinds.Trunk",
        "heads": "morlaif.preference.kinds.Heads",
        "salmon": "morlaif.preference.kinds.Salmon",
        "conditioned": "morlaif.preference.kinds.Conditioned",
        "ensemble": "morlaif.preference.kinds.Ensemble",
        "full": "morlaif.preference.kinds.Full",
        "pretrained": "morlaif.preference.kinds.Pretrained",
    },
)

OutputName = Annotated[int, Field(ge=0, le=10**6), NUMBER] | Line  # a score's place, or its name
Length = Annotated[Tokens, Field(ge=8)]


def _negates(text: str) -> str:
    if text.replace("{principle}", "").count("{") or "{principle}" not in text:
        raise ValueError("should hold {principle}, in the place of what is negated, and no other braces")
    return text


class EarlyStopping(Settings):
    """Stop when accuracy on a part of the training pairs no longer rises, and keep the best weights."""

    share: Part  # of the training pairs, kept out of training to choose by
    every: Count  # optimizer steps between two measurements
    patience: Count  # measurements without a new best before the end


class TrainedPM(Seeded):
    """What every kind that is trained on verdicts has in common."""

    outside_digest: ClassVar[frozenset[str]] = frozenset(
        {"gradient_checkpointing", "checkpoint_every", "base", "revision", "trust_remote_code"}
    )
    reads_outside: ClassVar[Mapping[str, Outside]] = {"base": "model"}

    base: PathText | None  # null: the SFT model; else a folder or a hub name
    revision: Line | None  # of a hub base
    trust_remote_code: bool  # whether that base may run Python of its own
    pooling: Literal["last", "mean"]  # which token states the head reads
    loss: Literal["soft", "margin"]
    margin_scale: Coefficient  # loss "margin": logit gap of the judge times this is the margin
    center: Coefficient  # weight of the penalty (s_first + s_second)^2
    ties: Literal["keep", "drop"]  # verdicts at exactly one half
    learning_rate: LearningRate
    head_learning_rate: LearningRate  # of the scalar head, which starts from nothing and may need larger steps
    schedule: Literal["cosine", "linear", "constant"]
    warmup_steps: Whole  # at most half of all steps
    epochs: Count
    early_stopping: EarlyStopping | None
    batch_size: Batch  # pairs for each optimizer step
    micro_batch_size: Batch | None  # pairs for each forward; null: the whole batch
    weight_decay: Coefficient
    max_grad_norm: Positive  # of each principle's own weights, so that no principle changes another's step
    max_length: Length  # tokens of prompt and response; the prompt is cut on the left
    gradient_checkpointing: bool
    checkpoint_every: Count | None  # optimizer steps between checkpoints

    def source(self) -> Source | None:
        """What is trained on where it is not the run's SFT model."""
        if self.base is None:
            return None
        return Source(self.base, self.revision, self.trust_remote_code, key="pm.base")

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainedPM:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"`micro_batch_size` must divide `batch_size` {self.batch_size}")
        return self


class AdapterEach(TrainedPM):
    """An adapter and a scalar head for each principle, over a shared frozen base: one principle moves no other."""

    outside_digest: ClassVar[frozenset[str]] = TrainedPM.outside_digest | {"joint", "joint_tokens"}

    lora: LoRASettings
    joint: Batch  # so many principles are trained in one pass over the pairs; 1: each by itself
    joint_tokens: Count | None  # padded tokens of one training forward over all its principles; null: by the memory


class LoraPM(AdapterEach):
    """Adapters in all layers."""

    kind: Literal["lora"]


class TopLayers(AdapterEach):
    """Adapters in the top layers alone: the layers below are the same for every principle, and run once."""

    outside_digest: ClassVar[frozenset[str]] = AdapterEach.outside_digest | {"cache_gb"}

    top: Share  # of the layers, at least one
    cache_gb: NonNegative  # memory for the states below them, kept over epochs if all fit; 0: never


class TrunkPM(TopLayers):
    """One member for each principle."""

    kind: Literal["trunk"]


class FullPM(TrainedPM):
    """A whole model for each principle."""

    kind: Literal["full"]


class HeadsPM(TrainedPM):
    """One adapter on the base for all principles together, and a scalar head for each."""

    kind: Literal["heads"]
    lora: LoRASettings


class ConditionedPM(TrainedPM):
    """One adapter and one head for all principles: the model reads the dialogue, then what it is to judge by."""

    kind: Literal["conditioned"]
    lora: LoRASettings
    instruction: Text  # with {name}, {question} and {description} of the principle
    overall: Text  # {question} where no single principle is judged by: the baseline


class SetDraws(Settings):
    """How sets of principles are drawn to learn from."""

    passes: Count  # sets for each pair, which are read behind one dialogue
    stop: Share  # a set of at least n principles has at least n + 1 with the rest of this probability: geometric
    most: Count  # principles of a set
    negated: Probability  # that a principle is negated
    flipped: Probability  # that a preference is turned round


class SalmonPM(ConditionedPM):
    """A conditioned model of sets of principles, some of them negated: it may be asked of what it never saw."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"leave_out": ((),)}

    kind: Literal["salmon"]  # type: ignore[assignment]
    sets: SetDraws
    negation: Annotated[Text, AfterValidator(_negates)]  # what a negated {principle} reads as
    leave_out: Annotated[tuple[Line, ...], DISTINCT]  # principles that are not learnt from, but asked about afterwards


class EnsemblePM(TopLayers):
    """Several models a principle that differ in their seed, for a score that knows how sure it is."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "bootstrap": (False,),
        "diversity": (0.0,),
        "shared_steps": (0,),
    }

    kind: Literal["ensemble"]
    member: Literal["lora", "trunk", "heads"]  # `top` and `cache_gb` are read by trunk alone
    members: Annotated[int, Field(ge=2, le=1000), NUMBER]
    aggregate: Literal["mean", "uncertainty", "lcb", "min"]
    penalty: Coefficient  # off the mean, times the members' variance ("uncertainty") or their deviation ("lcb")
    bootstrap: bool  # each member learns from a resample of the pairs
    diversity: Coefficient  # weight of the nuclear norm of the members' adapters, which learning then raises
    shared_steps: Whole  # first steps in which the members have one adapter, and a head each

    @property
    def in_one_pass(self) -> bool:
        """Whether the members of a principle learn from the same batches, in one forward."""
        return self.member == "heads" or self.diversity > 0 or self.shared_steps > 0

    @model_validator(mode="after")
    def _heads_share(self) -> EnsemblePM:
        if self.member != "heads":
            return self
        for key in ("diversity", "shared_steps"):
            if getattr(self, key):
                raise ValueError(f"`{key}` is of members with adapters of their own; member `heads` has one for all: 0")
        if self.early_stopping is not None:
            raise ValueError("`early_stopping` keeps each member's best weights; members `heads` share theirs: null")
        return self


class PretrainedPM(Seeded):
    """Reward models that exist already: any sequence classifier, by principle."""

    outside_digest: ClassVar[frozenset[str]] = frozenset(  # see `source`, and `output_of`
        {"paths", "revisions", "output", "trust_remote_code"}
    )
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"output": (None,)}

    kind: Literal["pretrained"]
    paths: dict[Line, PathText] | None  # folder or hub id, for each principle
    revisions: dict[Line, Line] | None  # of hub ids, where not the main branch
    output: OutputName | dict[Line, OutputName] | None  # of models that give several scores: which is the reward
    max_length: Length
    trust_remote_code: bool

    def pinned(self, commit: Callable[[str, str | None], str | None]) -> dict[str, Any]:
        if not self.paths:
            return {}
        before = self.revisions or {}
        commits = {name: commit(path, before.get(name)) for name, path in self.paths.items()}
        return {"revisions": before | {name: known for name, known in commits.items() if known is not None}}

    def source(self, name: str) -> Source | None:
        """The reward model of a principle."""
        if (path := (self.paths or {}).get(name)) is None:
            return None
        return Source(path, (self.revisions or {}).get(name), self.trust_remote_code, key=f"pm.paths.{name}")

    def output_of(self, name: str) -> int | str | None:
        """Which of its model's scores is a principle's reward; None: the only one."""
        return self.output.get(name) if isinstance(self.output, dict) else self.output


class PluginPM(Seeded):
    """A kind from outside (docs/extending.md)."""

    reads_outside: ClassVar[Mapping[str, Outside]] = {"kind": "function"}

    kind: Line | None  # the dotted path of a class, or the name that an installed package gives it; must be given
    params: Params  # that its objects are made of


def outside_base(settings: PMSettings) -> Source | None:
    """What preference models are trained on where it is not the run's SFT model."""
    return settings.source() if isinstance(settings, TrainedPM) else None


PMSettings = Annotated[
    LoraPM | TrunkPM | FullPM | HeadsPM | ConditionedPM | SalmonPM | EnsemblePM | PretrainedPM | PluginPM,
    OneOf("kind", KINDS),
]
