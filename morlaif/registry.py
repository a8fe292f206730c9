"""One idea of what can be chosen by name: our own objects, those that installed packages offer, and any dotted path.

A package offers an object by an entry point of the group `morlaif.<kind>`:

    [project.entry-points."morlaif.judge"]
    shortest = "my_package.judges:shortest"

A name of ours always means ours. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from morlaif.dotted import find
from morlaif.errors import UserError, suggest

T = TypeVar("T")
PREFIX = "morlaif."  # of the groups of entry points


@dataclass(frozen=True, eq=False)
class Registry(Generic[T]):
    """The objects of one kind, such as advantage estimators."""

    kind: str  # "estimator"; with PREFIX the group of entry points
    key: str  # of the config that names one, for messages: "ppo.advantage"
    home: str  # our own module of them, for messages
    known: Mapping[str, str]  # our own: dotted path by name

    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.known, *_installed(self.kind)]))

    def is_others(self, name: str) -> bool:
        """Whether `name` means code of others: a dotted path, or what an installed package offers."""
        return name not in self.known and ("." in name or name in _installed(self.kind))

    def path(self, name: str) -> str:
        """The dotted path of what `name` (a name, or a dotted path itself) means; nothing is imported.

        Raises:
            UserError: a bare name that nobody has.
        """
        if (path := self.known.get(name) or _installed(self.kind).get(name)) is not None:
            return path
        if "." in name:
            return name
        known = ", ".join(self.names())
        raise UserError(
            f"{self.key}: no {self.kind} '{name}'.{suggest(name, self.names())} "
            f"Known: {known}; or give the dotted path of your own."
        )

    def find(self, name: str) -> T:
        """
        Raises:
            UserError: there is none, or its module cannot be imported.
        """
        made: Any = find(self.path(name), self.key, self.home, next(iter(self.known.values()), "").rpartition(".")[2])
        return made

    def checked(self, name: str) -> str:
        """`name`, as the validator of a field that holds it.

        Raises:
            ValueError: it leads to nothing; says why without the key, which pydantic's errors have.
        """
        try:
            self.find(name)
        except UserError as error:
            raise ValueError(re.sub(rf"^{re.escape(self.key)}( '[^']*')?: ", "", str(error))) from None
        return name


@cache
def _installed(kind: str) -> dict[str, str]:
    """Dotted paths, by name, of what installed packages offer."""
    return {point.name: point.value.replace(":", ".") for point in entry_points(group=PREFIX + kind)}


@cache
def _installed_kinds() -> tuple[str, ...]:
    """The kinds of what installed packages offer."""
    return tuple(group.removeprefix(PREFIX) for group in entry_points().groups if group.startswith(PREFIX))


def forget() -> None:
    """Look anew at what is installed."""
    _installed.cache_clear()
    _installed_kinds.cache_clear()


def of_others(name: str) -> str | None:
    """The dotted path of code that is not ours behind a text of the config; None: our own, or nothing of the kind."""
    if "." in name:
        return None if name.startswith("morlaif.") else name
    found = (_installed(kind).get(name) for kind in _installed_kinds())
    return next((path for path in found if path is not None), None)
