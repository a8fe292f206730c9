"""Kinds of preference model from outside: a class of someone else's trains and loads, and is measured as all are.

Its code runs only where the config of this very run names it: what a finished model's report says is not enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from morlaif.errors import UserError
from morlaif.params import checked, wanted
from morlaif.preference.kind import Kind, OnStep, OwnKind
from morlaif.preference.settings import KINDS, PluginPM

if TYPE_CHECKING:
    from morlaif.preference.readers import Opener, Reader
    from morlaif.preference.report import PMReport
    from morlaif.preference.tasks import Corpus, Task


class Plugin(Kind[PluginPM]):
    """What the project asks about a class of someone else's."""

    on_ranks = False
    network = False

    def __init__(self, settings: PluginPM) -> None:
        super().__init__(settings)
        self.name = settings.kind or ""

    @cached_property
    def own(self) -> OwnKind:
        """
        Raises:
            UserError: there is no such class, or it does not take these parameters.
        """
        return _make(self.settings)

    @property
    def on_policy(self) -> bool:
        return self.own.on_policy

    def train(
        self, tasks: Sequence[Task], corpus: Corpus, *, seed: int, on_step: OnStep, keep: Path | None
    ) -> dict[str, PMReport | UserError]:
        from morlaif.preference.measured import train_and_measure

        return {task.principle: train_and_measure(self.name, self.own, task, corpus, seed) for task in tasks}

    @staticmethod
    def read(opener: Opener, names: Sequence[str]) -> list[Reader]:
        from morlaif.preference.measured import ScoreReader

        kind = opener.reports[names[0]].kind
        if not isinstance(opener.settings, PluginPM) or opener.settings.kind != kind:
            raise UserError(
                f"preference model '{names[0]}': its kind '{kind}' is none of ours, and code of others runs only where "
                f"the run's config names it: give pm.kind={kind}"
            )
        own = _make(opener.settings)
        return [ScoreReader(name, own, opener) for name in names]


def _make(settings: PluginPM) -> OwnKind:
    if settings.kind is None:
        raise UserError("pm.kind: give the dotted path of a class of your own; docs/extending.md shows one")
    path, made = KINDS.path(settings.kind), KINDS.find(settings.kind)
    if not (isinstance(made, type) and issubclass(made, OwnKind)):
        raise UserError(f"pm.kind '{path}': expected a class derived from morlaif.preference.kind.OwnKind")
    return made(**checked(settings.params, wanted(made), key="pm.params", path=path, name=settings.kind))
