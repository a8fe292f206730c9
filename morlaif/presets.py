"""Where presets lie. No Hydra: the help, the docs and the advice ask too.

A package offers its presets by an entry point of the group `morlaif.conf`, whose value is an importable package with
YAML in it, laid out as `conf/` is:

    [project.entry-points."morlaif.conf"]
    my_package = "my_package.conf"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

import morlaif.conf
import morlaif.sweeps
from morlaif.errors import UserError

ENTRY_POINTS = "morlaif.conf"
HIDDEN = "_"  # a folder whose name begins so holds what presets inherit from; nothing in it is an option


def places(config_dir: str | None = None) -> list[Path]:
    """The folders of presets: ours, those of installed packages, and `config_dir`. The first that has a file wins."""
    ours = [Path(morlaif.conf.__path__[0]), Path(morlaif.sweeps.__path__[0])]
    return [*ours, *installed().values(), *([Path(config_dir)] if config_dir else [])]


def installed() -> dict[str, Path]:
    """The folders of presets that installed packages offer, by the name of the entry point.

    Raises:
        UserError: an entry point that names no package.
    """
    return {point.name: _folder(point) for point in entry_points(group=ENTRY_POINTS)}


def _folder(point: EntryPoint) -> Path:
    try:
        spec = find_spec(point.value)
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        owner = f" of {point.dist.name}" if point.dist else ""
        raise UserError(f"entry point {ENTRY_POINTS}: {point.name}{owner} names '{point.value}', which is no package")
    return Path(spec.submodule_search_locations[0])


def options(config_dir: str | None = None) -> dict[str, set[str]]:
    """The options of every group."""
    found: dict[str, set[str]] = {}
    for place in places(config_dir):
        for file in place.rglob("*.yaml"):
            group = file.parent.relative_to(place)
            if file.parent != place and not any(part.startswith(HIDDEN) for part in group.parts):
                found.setdefault(group.as_posix(), set()).add(file.stem)
    return found
