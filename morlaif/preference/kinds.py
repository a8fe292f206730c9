"""The kinds of preference model: one class each, of all that the rest of the project asks about them.

`kind_of(settings)` is the kind that a config names, with its settings. What it answers needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from morlaif.preference.settings import (
    AdapterEach,
    ConditionedPM,
    EnsemblePM,
    FullPM,
    HeadsPM,
    LoraPM,
    PretrainedPM,
    TrainedPM,
    TrunkPM,
    outside_base,
)
from morlaif.registry import Registry
from morlaif.settings import Settings

if TYPE_CHECKING:
    from morlaif.models.place import Source
    from morlaif.models.settings import LoRASettings
    from morlaif.preference.settings import PMSettings

S = TypeVar("S", bound=Settings)
T = TypeVar("T", bound=TrainedPM)
A = TypeVar("A", bound=AdapterEach)


class PairBatch(NamedTuple):
    """The pairs of one optimizer step."""

    size: int
    micro: int | None  # most of one forward; None: all


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What an arm's preference models hold and learn: what an estimate of their memory is made of."""

    max_length: int  # tokens of one row
    lora: LoRASettings | None = None  # None: each is a whole model; else adapters on one frozen base
    one_adapter: bool = False  # all models have the same
    top: float = 1.0  # share of the layers, from the top, that are adapted
    members: int = 1  # adapters of one model
    joint: int = 1  # models that learn in one pass
    joint_tokens: int | None = None  # padded tokens of one forward over those; None: no bound
    cache_gb: float = 0.0  # memory for the states below the adapted layers
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Kind(Generic[S]):
    """Preference models as one config has them."""

    settings: S

    trains: ClassVar[bool] = True  # False: the weights exist already, and are only measured
    shared: ClassVar[bool] = False  # one network for all principles, trained by stage `backbone`; each has a view of it
    on_ranks: ClassVar[bool] = True  # whether stage `pm` works on several ranks
    network: ClassVar[bool] = True  # whether each folder holds weights that transformers or peft load, as a critic may

    @property
    def joint(self) -> int:
        """How many models at most are trained as one part. Fixed, so that no number of workers changes a result."""
        return 1

    @property
    def batch(self) -> PairBatch | None:
        """None where nothing is learnt in batches."""
        return None

    @property
    def footprint(self) -> Footprint | None:
        """None where memory cannot be told."""
        return None

    @property
    def base(self) -> Source | None:
        """What models are trained on where it is not the run's SFT model."""
        return None

    @property
    def on_policy(self) -> bool:
        """Whether models start from the run's SFT model."""
        return self.trains and self.base is None

    @property
    def existing(self) -> Mapping[str, Source]:
        """Models that are not trained here, by principle."""
        return {}


class Trained(Kind[T]):
    """What all kinds that learn from verdicts have in common."""

    @property
    def batch(self) -> PairBatch:
        return PairBatch(self.settings.batch_size, self.settings.micro_batch_size)

    @property
    def base(self) -> Source | None:
        return outside_base(self.settings)


class Separate(Trained[A]):
    """An adapter for each principle; several learn in one pass."""

    @property
    def joint(self) -> int:
        return self.settings.joint

    @property
    def footprint(self) -> Footprint:
        s = self.settings
        return Footprint(
            max_length=s.max_length, lora=s.lora, joint=s.joint, joint_tokens=s.joint_tokens,
            gradient_checkpointing=s.gradient_checkpointing, **self._adapted(),
        )  # fmt: skip

    def _adapted(self) -> dict[str, Any]:
        return {}


class Lora(Separate[LoraPM]):
    """Adapters in all layers."""


class Trunk(Separate[TrunkPM]):
    """Adapters in the top layers; those below run once for all principles."""

    def _adapted(self) -> dict[str, Any]:
        return {"top": self.settings.top, "cache_gb": self.settings.cache_gb}


class Ensemble(Separate[EnsemblePM]):
    """Several adapters a principle, from different seeds."""

    def _adapted(self) -> dict[str, Any]:
        s = self.settings
        top = {"top": s.top, "cache_gb": s.cache_gb} if s.member == "trunk" else {}
        return {"members": s.members, **top}


class Full(Trained[FullPM]):
    """A whole model for each principle."""

    @property
    def footprint(self) -> Footprint:
        s = self.settings
        return Footprint(max_length=s.max_length, gradient_checkpointing=s.gradient_checkpointing)


class Heads(Trained[HeadsPM]):
    """One adapter for all principles, a head for each."""

    shared = True
    on_ranks = False

    @property
    def footprint(self) -> Footprint:
        return _one_adapter(self.settings)


class Conditioned(Trained[ConditionedPM]):
    """One adapter and one head; the model reads the principle."""

    shared = True
    on_ranks = False

    @property
    def footprint(self) -> Footprint:
        return _one_adapter(self.settings)


class Pretrained(Kind[PretrainedPM]):
    """Reward models that exist already."""

    trains = False
    on_ranks = False
    network = False

    @property
    def existing(self) -> Mapping[str, Source]:
        found = {name: self.settings.source(name) for name in self.settings.paths or {}}
        return {name: source for name, source in found.items() if source is not None}

    @property
    def footprint(self) -> Footprint:
        return Footprint(max_length=self.settings.max_length)


def _one_adapter(settings: HeadsPM | ConditionedPM) -> Footprint:
    return Footprint(
        max_length=settings.max_length, lora=settings.lora, one_adapter=True,
        gradient_checkpointing=settings.gradient_checkpointing,
    )  # fmt: skip


KINDS: Registry[type[Kind[Any]]] = Registry(
    kind="preference_model",
    key="pm.kind",
    home="morlaif.preference.kinds",
    known={
        "lora": "morlaif.preference.kinds.Lora",
        "trunk": "morlaif.preference.kinds.Trunk",
        "heads": "morlaif.preference.kinds.Heads",
        "conditioned": "morlaif.preference.kinds.Conditioned",
        "ensemble": "morlaif.preference.kinds.Ensemble",
        "full": "morlaif.preference.kinds.Full",
        "pretrained": "morlaif.preference.kinds.Pretrained",
    },
)


def kind_of(settings: PMSettings) -> Kind[Any]:
    """The kind that `settings` name."""
    return KINDS.find(settings.kind)(settings)
