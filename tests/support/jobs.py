"""What a stage reads and needs, for tests that call its `build` by itself: what they do not give is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from morlaif.units.job import Reads, gather
from morlaif.units.unit import Stage, Unit


def typed(stage: Stage, reads: Mapping[str, Any], folders: Mapping[str, Path]) -> tuple[Reads, Any]:
    """`reads` and `needs` of a `Job`; `folders` by unit name, of which the stage gets those that it declares."""
    parts = fields(stage.reads)
    absent = {p.name: None for p in parts if p.default is MISSING and p.default_factory is MISSING}
    made = stage.reads(**{**absent, "seed": 0, **reads})
    if stage.needs is dict:
        return made, dict(folders)
    known = {part.name for part in fields(stage.needs)}
    rest = any(part.metadata.get("rest") for part in fields(stage.needs))
    own = {name: folder for name, folder in folders.items() if rest or name.partition("/")[0] in known}
    return made, gather(stage.needs, own)


@dataclass(frozen=True, kw_only=True)
class Values(Reads):
    """Of a stage that a test makes up."""

    values: Mapping[str, Any]


def made_up(
    stage: str, name: str, version: int, values: Mapping[str, Any], needs: tuple[Unit, ...] = (), *, seed: int = 0,
    paired: bool = False, **more: Any,
) -> Unit:  # fmt: skip
    """A unit of a stage whose work is the module `morlaif.stages.work.<stage>`, put into `sys.modules` by the test."""
    attributes = {"name": stage, "version": version, "paired": paired, "work": f"morlaif.stages.work.{stage}"}
    return Unit(type("MadeUp", (Stage,), attributes)(), name, Values(values=values, seed=seed), needs, **more)
