"""What a kind of preference model answers about itself, and what it does. Asking needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from morlaif.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from morlaif.data.records import Message
    from morlaif.errors import UserError
    from morlaif.models.place import Source
    from morlaif.models.settings import LoRASettings
    from morlaif.preference.readers import Opener, Reader
    from morlaif.preference.report import PMReport
    from morlaif.preference.tasks import Corpus, Task

S = TypeVar("S", bound=Settings)
Scorer = Callable[["Sequence[Sequence[Message]]", "Sequence[str]"], "Tensor"]  # prompts, responses -> (B,)
OnStep = Callable[[int, int, dict[str, float]], None]  # step, steps, loss of each principle


class PairBatch(NamedTuple):
    """The pairs of one optimizer step."""

    size: int
    micro: int | None  # most of one forward; None: all


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What an arm's preference models hold and learn: what an estimate of their memory is made of."""

    max_length: int  # tokens of one row
    behind: int = 0  # tokens of questions behind a row, while it learns
    lora: LoRASettings | None = None  # None: each is a whole model; else adapters on one frozen base
    one_adapter: bool = False  # all models have the same
    top: float = 1.0  # share of the layers, from the top, that are adapted
    members: int = 1  # adapters of one model
    joint: int = 1  # models that learn in one pass
    at_least: int = 1  # adapters that must go through one forward
    joint_tokens: int | None = None  # padded tokens of one forward over those; None: as many as the memory takes
    cache_gb: float = 0.0  # memory for the states below the adapted layers
    gradient_checkpointing: bool = False


class Kind(Generic[S]):
    """Preference models as one config has them."""

    name: str  # as `pm.kind` has it
    about: ClassVar[str] = ""  # for the model card; see `morlaif.preference.card`
    trains: ClassVar[bool] = True  # False: the weights exist already, and are only measured
    shared: ClassVar[bool] = False  # one network for all principles, trained by stage `backbone`; each has a view of it
    on_ranks: ClassVar[bool] = True  # whether stage `pm` works on several ranks
    network: ClassVar[bool] = True  # whether each folder holds weights that transformers or peft load, as a critic may

    def __init__(self, settings: S) -> None:
        self.settings = settings

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
        """None where the memory is unknown."""
        return None

    @property
    def base(self) -> Source | None:
        """What models are trained on where it is not the run's SFT model."""
        return None

    @property
    def on_policy(self) -> bool:
        """Whether models start from the run's SFT model."""
        return self.trains and self.base is None

    def refuses(self, config: Mapping[str, Any]) -> str | None:
        """Why a base with this config.json cannot carry models of this kind, to go on after its name; None: it may."""
        return None

    @property
    def existing(self) -> Mapping[str, Source]:
        """Models that are not trained here, by principle."""
        return {}

    @abstractmethod
    def train(
        self, tasks: Sequence[Task], corpus: Corpus, *, seed: int, on_step: OnStep, keep: Path | None
    ) -> dict[str, PMReport | UserError]:
        """See `morlaif.preference.train.train_pms`."""

    @staticmethod
    @abstractmethod
    def read(opener: Opener, names: Sequence[str]) -> list[Reader]:
        """Open finished models of this kind, whatever settings they were trained with."""


class OwnKind(ABC):
    """A kind from outside: a model for each principle. Objects are made of `pm.params`, by name."""

    on_policy: ClassVar[bool] = True  # whether it reads the run's SFT model, and is built anew where that is another

    @abstractmethod
    def train(self, task: Task, corpus: Corpus, folder: Path, seed: int) -> None:
        """Learn from `task.verdicts` on `corpus.pairs`, and leave in `folder` all that `load` reads.

        Raises:
            UserError: this principle cannot be learnt; the others are all the same.
        """

    @abstractmethod
    def load(self, folder: Path, base: Source | None, device: torch.device) -> Scorer:
        """What scores responses, from what `train` left. base: where the SFT model lies now, if it is read."""
