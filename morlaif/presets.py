"""Where presets lie. No Hydra: the help, the docs and the advice ask too.

A package offers its presets by an entry point of the group `morlaif.conf`, whose value is an importable package with
YAML in it, laid out as `conf/` is:

    [project.entry-points."morlaif.conf"]
    my_package = "my_package.conf"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import morlaif.conf
import morlaif.sweeps
from morlaif.errors import UserError, suggest

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


def preset(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """The values of a preset, with all that it inherits: what `group=name` means on the command line.

        PPOSettings(**preset("ppo", "toy", steps=5, kl={"coef": 0.1}))

    Args:
        changes: other values for its keys; a mapping changes the keys that it names and leaves the others.

    Raises:
        UserError: there is no such preset, or it changes other groups too, which the command line alone can.
    """
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.create({})
    for package, values in _inherited(group, name, "", {}):
        inside = OmegaConf.create({})
        OmegaConf.update(inside, package, values) if package else inside.merge_with(values)
        tree = OmegaConf.merge(tree, inside)
    merged = OmegaConf.to_container(OmegaConf.merge(tree, changes))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def _inherited(group: str, name: str, package: str, chosen: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """The files that Hydra's defaults list of a preset names, in its order: where in the tree each lies, its values.

    `chosen`: what presets above have chosen instead, by `group@package`.
    """
    from omegaconf import OmegaConf

    values: Any = OmegaConf.load(_file(group, name))
    entries = [_entry(entry) for entry in (OmegaConf.to_container(values.pop("defaults", OmegaConf.create([]))) or [])]
    chosen = {key: option for key, option, override in entries if override} | dict(chosen)
    entries = [entry for entry in entries if not entry[2]]
    if not any(key == "_self_" for key, *_ in entries):
        entries.append(("_self_", "", False))
    for key, option, _ in entries:
        if key == "_self_":
            yield package, values
            continue
        where, _, inside = key.partition("@")
        own, option = (where, option) if option else where.rpartition("/")[::2]
        if own.startswith("/"):
            found = own[1:]
        else:
            found = "/".join(part for part in (group, own) if part)
            inside = inside or own.replace("/", ".")
        at = ".".join(part for part in (package, inside) if part)
        yield from _inherited(found, chosen.get(key, option), at, chosen)


def _entry(entry: Any) -> tuple[str, str, bool]:
    """Of a defaults list: `group@package`, or the preset where it stands alone; its option; whether it overrides."""
    if isinstance(entry, str):
        return entry, "", False
    ((key, option),) = entry.items()
    return key.removeprefix("override "), option, key.startswith("override ")


def _file(group: str, name: str) -> Path:
    for place in places():
        if (file := place / group / f"{name}.yaml").is_file():
            if file.read_text(encoding="utf-8").startswith("# @package _global_"):
                raise UserError(
                    f"{group}={name} changes other groups too, so it means something on the command line alone"
                )
            return file
    known = options().get(group, ())
    raise UserError(
        f"no preset '{name}' in {group}/.{suggest(name, known)} Known: {', '.join(sorted(known)) or 'none'}."
    )
