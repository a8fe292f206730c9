"""The kinds of preference model: a class each, which holds all that the rest of the project asks about them.

`kind_of(settings)` is the kind that a config names. It needs no torch until models are trained or read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from morlaif.models.architectures import recurrent, slopes
from morlaif.preference.kind import Footprint, Kind, OnStep, PairBatch
from morlaif.preference.plugin import Plugin
from morlaif.preference.settings import (
    KINDS,
    AdapterEach,
    ConditionedPM,
    EnsemblePM,
    FullPM,
    HeadsPM,
    LoraPM,
    PluginPM,
    PretrainedPM,
    SalmonPM,
    TrainedPM,
    TrunkPM,
)

if TYPE_CHECKING:
    from morlaif.errors import UserError
    from morlaif.models.place import Source
    from morlaif.preference.readers import Opener, Reader
    from morlaif.preference.report import PMReport
    from morlaif.preference.session import Session
    from morlaif.preference.settings import PMSettings
    from morlaif.preference.tasks import Corpus, Task

QUESTION_TOKENS = 32  # of a principle's text, about: for estimates of memory
T = TypeVar("T", bound=TrainedPM)
A = TypeVar("A", bound=AdapterEach)
H = TypeVar("H", HeadsPM, ConditionedPM, SalmonPM)


class Trained(Kind[T]):
    """What all kinds that learn from verdicts by gradients have in common."""

    @property
    def batch(self) -> PairBatch:
        return PairBatch(self.settings.batch_size, self.settings.micro_batch_size)

    @property
    def base(self) -> Source | None:
        return self.settings.source()

    def train(
        self, tasks: Sequence[Task], corpus: Corpus, *, seed: int, on_step: OnStep, keep: Path | None
    ) -> dict[str, PMReport | UserError]:
        from morlaif.preference.session import Session

        session = Session(self, self.settings, tasks, corpus, seed, on_step, keep)
        return session.run(self.learn)

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        """Train, test and leave the models of the tasks `taught`."""
        raise NotImplementedError

    @staticmethod
    def read(opener: Opener, names: Sequence[str]) -> list[Reader]:
        from morlaif.preference.readers import adapter_readers

        return adapter_readers(opener, names)


class Separate(Trained[A]):
    """An adapter and a head for each principle on one frozen base; several learn in one pass."""

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

    name = "lora"
    about = "An adapter of its own on the base."

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        from morlaif.preference.separate import train_adapters

        train_adapters(session, self.settings, taught)


class Trunk(Separate[TrunkPM]):
    """Adapters in the top layers; those below run once for all principles."""

    name = "trunk"
    about = "An adapter of its own in the base's top layers."

    def _adapted(self) -> dict[str, Any]:
        return {"top": self.settings.top, "cache_gb": self.settings.cache_gb}

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        from morlaif.preference.separate import train_adapters

        train_adapters(session, self.settings, taught, top=self.settings)


class Ensemble(Separate[EnsemblePM]):
    """Several adapters for each principle, from different seeds."""

    name = "ensemble"
    about = (
        "{members} members from different seeds, each centred on the mean of its training scores ({offsets}); the "
        "score is their {rule}. This folder is the first member, the others lie in `members/`."
    )

    def _adapted(self) -> dict[str, Any]:
        s = self.settings
        adapters = 1 if s.member == "heads" else s.members
        found = {"members": adapters, "at_least": adapters if s.in_one_pass else 1}
        return found | ({"top": s.top, "cache_gb": s.cache_gb} if s.member == "trunk" else {})

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        from morlaif.preference.separate import train_ensembles

        train_ensembles(session, self.settings, taught)


class Shared(Trained[H]):
    """One adapter for all principles: a verdict on any of them moves the weights of all."""

    shared = True
    on_ranks = False  # stage `pm` only takes a view of what `backbone` has trained

    @property
    def footprint(self) -> Footprint:
        s = self.settings
        return Footprint(
            max_length=s.max_length, lora=s.lora, one_adapter=True, gradient_checkpointing=s.gradient_checkpointing
        )


class Heads(Shared[HeadsPM]):
    """A head for each principle."""

    name = "heads"
    about = "A head of its own on one adapter that the verdicts of {together} trained together."

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        from morlaif.preference.shared import train_heads

        train_heads(session, self.settings, taught)


class Reading(Shared[H]):
    """One head for all: the model reads what it is to judge by."""

    def refuses(self, config: Mapping[str, Any]) -> str | None:
        """What `check_questions` would find, as far as the architecture's name says."""
        text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
        name = str(text.get("model_type", config.get("model_type")))
        local = any("local" in str(part) for part in text.get("attention_types") or ())  # GPT-Neo counts in places
        if recurrent(name):
            return f"has recurrent layers ({name}), which read several questions in one pass as one text"
        if local or (slopes(name) and text.get("alibi", name != "falcon") is True):
            return f"takes no positions ({name}), so that several questions cannot follow one dialogue"
        return None


class Conditioned(Reading[ConditionedPM]):
    """A principle."""

    name = "conditioned"
    about = (
        "One adapter and one head, trained on the verdicts of {together} together; it reads the principle's text "
        "behind the dialogue."
    )

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        from morlaif.preference.shared import train_conditioned

        train_conditioned(session, self.settings, taught)


class Salmon(Reading[SalmonPM]):
    """A set of principles, each as it is or negated."""

    name = "salmon"
    about = (
        "One adapter and one head, trained on sets of principles, some of them negated, from the verdicts of "
        "{together}; it reads the principles' texts behind the dialogue, a line each."
    )

    @property
    def footprint(self) -> Footprint:
        own = super().footprint
        sets = self.settings.sets  # all those of a pair stand behind one dialogue
        size = min(1 / sets.stop, sets.most)
        return replace(own, behind=round(sets.passes * size * QUESTION_TOKENS))

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        from morlaif.preference.shared import train_sets

        train_sets(session, self.settings, taught)


class Full(Trained[FullPM]):
    """A whole model for each principle."""

    name = "full"
    about = "A whole model of its own."

    @property
    def footprint(self) -> Footprint:
        s = self.settings
        return Footprint(max_length=s.max_length, gradient_checkpointing=s.gradient_checkpointing)

    def learn(self, session: Session, taught: Sequence[int]) -> None:
        from morlaif.preference.full import train_whole

        train_whole(session, self.settings, taught)

    @staticmethod
    def read(opener: Opener, names: Sequence[str]) -> list[Reader]:
        from morlaif.preference.readers import full_reader

        return [full_reader(opener, name) for name in names]


class Pretrained(Kind[PretrainedPM]):
    """Reward models that exist already."""

    name = "pretrained"
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

    def train(
        self, tasks: Sequence[Task], corpus: Corpus, *, seed: int, on_step: OnStep, keep: Path | None
    ) -> dict[str, PMReport | UserError]:
        from morlaif.preference.pretrained import measure_pretrained

        return {task.principle: measure_pretrained(task, corpus, self.settings) for task in tasks}

    @staticmethod
    def read(opener: Opener, names: Sequence[str]) -> list[Reader]:
        from morlaif.preference.readers import pretrained_reader

        return [pretrained_reader(opener, name) for name in names]


def kind_of(settings: PMSettings) -> Kind[Any]:
    """The kind that `settings` name."""
    if isinstance(settings, PluginPM):
        return Plugin(settings)
    return KINDS.find(settings.kind)(settings)


def leaves_network(kind: str) -> bool:
    """Whether a finished model of this kind is weights that transformers or peft load."""
    return kind in KINDS.known and bool(KINDS.find(kind).network)


def read_models(opener: Opener, kind: str, names: Sequence[str]) -> list[Reader]:
    """Open the models `names`, all of them of one kind.

    Raises:
        UserError: it is none of ours, and not the one that the run's config names.
    """
    known: type[Kind[Any]] = KINDS.find(kind) if kind in KINDS.known else Plugin
    return known.read(opener, names)
