"""Which runs claims need: one for each arm, value and seed, as overrides; runs that are alike are one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from morlaif.claims.settings import ClaimsSettings
from morlaif.claims.spec import Known
from morlaif.errors import UserError, suggest

NAMED = re.compile(r"\{(\w+)\}")  # a model in an override
NOT_A_RUN = ("sweep", "claims", "hydra")  # what is said of the sweep is not said of its runs
REACH = "stages=[evaluate]"  # pages of single runs are not what claims are about


class Cell(NamedTuple):
    """One run of one arm of a claim."""

    claim: str
    arm: str  # with the value of what is swept
    seed: int
    words: tuple[str, ...]  # overrides; those of `seed` are the last


class Maker(NamedTuple):
    """A run that makes a model which arms name."""

    name: str
    words: tuple[str, ...]


def cells(known: Known, settings: ClaimsSettings, given: Sequence[str], models: Mapping[str, str]) -> list[Cell]:
    """The runs of a claim.

    Args:
        given: overrides of the command; a claim's own are stronger.
        models: folders or hub ids of the models that arms name.

    Raises:
        UserError: an arm names a model that there is not.
    """
    found = []
    for arm, own in known.claim.every_arm.items():
        words = merged([REACH, *given, *(_with_models(word, known, models) for word in own)])
        for seed in range(settings.seeds):
            seeds = tuple(f"{key}={seed}" for key in settings.vary)
            found.append(Cell(known.name, arm, seed, (*without(words, settings.vary), *seeds)))
    return found


def makers(known: Known, given: Sequence[str], models: Mapping[str, str]) -> list[Maker]:
    """The runs that must come first: those of models that arms name and nobody has given.

    Raises:
        UserError: a model that is the user's to give.
    """
    found = []
    for name, own in known.claim.models.items():
        if name in models:
            continue
        if own is None:
            raise UserError(f"needs claims.models.{name}=<folder or hub id>")
        found.append(Maker(name, merged([*given, *own, "stages=[sft]"])))
    return found


def words_of_runs(overrides: Iterable[str]) -> list[str]:
    """The overrides of a command that are those of its runs."""
    return [word for word in overrides if key_of(word).split(".")[0].split("/")[0] not in NOT_A_RUN]


def merged(words: Iterable[str]) -> tuple[str, ...]:
    """Each key once, in the order in which they first came, with its last value."""
    return tuple({key_of(word): word for word in words}.values())


def without(words: Iterable[str], keys: Iterable[str]) -> tuple[str, ...]:
    gone = {*keys}
    return tuple(word for word in words if key_of(word) not in gone)


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def quoted(path: str) -> str:
    """A path as the value of an override."""
    return "'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_models(word: str, known: Known, models: Mapping[str, str]) -> str:
    def path(match: re.Match[str]) -> str:
        if match[1] not in models:
            hint = suggest(match[1], known.claim.models)
            raise UserError(f"{known.file}: '{word}': models names no '{match[1]}'.{hint}")
        return quoted(models[match[1]])

    return NAMED.sub(path, word)
