"""Where presets lie, what they inherit from, and what they come to, without Hydra.

A preset inherits by Hydra's defaults list, `defaults: [toy, _self_]`: first what `toy` holds, then its own lines. What
only serves others, and is no option, lies in the group's folder `_base`: `_base/trained@_here_` has its keys put beside
the preset's own.

A package offers its presets by an entry point of the group `morlaif.conf`, whose value is an importable package with
YAML in it, laid out as `conf/` is:

    [project.entry-points."morlaif.conf"]
    my_package = "my_package.conf"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import morlaif.conf
import morlaif.sweeps
from morlaif.errors import UserError, suggest

ENTRY_POINTS = "morlaif.conf"
BUDGET = "${budget}"  # in a defaults list: the option of the group `budget`
_LAST = re.compile(r"\$\{morlaif\.last:\$\{\.(\w+)\}\}")
_FOLLOWS = re.compile(r"\$\{(\w+)\.(\w+)\}")
CLAIMS = "claims"  # a folder of claims, which are no presets: `morlaif.claims` reads them
HIDDEN = "_"  # a folder whose name begins so holds what presets inherit from; nothing in it is an option


def places(config_dir: str | None = None) -> list[Path]:
    """The folders of presets: ours, those of installed packages, and `config_dir`. The first that has a file wins."""
    ours = [Path(morlaif.conf.__path__[0]), Path(morlaif.sweeps.__path__[0])]
    return [*ours, *installed().values(), *([Path(config_dir)] if config_dir else [])]


@cache
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
            if file.parent != place and not any(part == CLAIMS or part.startswith(HIDDEN) for part in group.parts):
                found.setdefault(group.as_posix(), set()).add(file.stem)
    return found


@dataclass(frozen=True)
class Inherited:
    """An entry of a defaults list, other than `_self_`."""

    group: str  # "pm", or "pm/_base"
    option: str
    place: str  # where its keys go, below those of the preset: "" beside them, "judge.engine"
    override: bool = False  # of what another entry brings: `override /feedback@judge.engine: hf`

    @property
    def file(self) -> str:
        return f"{self.group}/{self.option}.yaml"


def inherited(tree: Mapping[str, Any], group: str) -> list[Inherited | None]:
    """The defaults list of a preset of `group`, given as YAML has it; None: its own lines.

    What a budget changes, `optional _budget@_here_: ${budget}`, is no part of a preset by itself, and left out.
    """
    entries = [_entry(entry, group) for entry in tree.get("defaults", []) if BUDGET not in str(entry)]
    return entries if None in entries else [*entries, None]


def _entry(entry: str | dict[str, str], group: str) -> Inherited | None:
    if entry == "_self_":
        return None
    if isinstance(entry, str):  # an option of the same group, or a path
        path, _, place = entry.partition("@")
        own, _, option = (path[1:] if path.startswith("/") else f"{group}/{path}").rpartition("/")
        return Inherited(own, option, place.replace("_here_", ""))
    ((key, option),) = entry.items()
    *words, key = key.split()
    path, _, place = key.partition("@")
    absolute = path[1:] if path.startswith("/") else f"{group}/{path}"
    return Inherited(absolute, option, place or path.lstrip("/").replace("/", "."), "override" in words)


def preset(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """The values of a preset, with all that it inherits: what `group=name` means on the command line.

    What follows a key of another group (`stop: ${eval.stop}`) has the value of that group's option of the same name, or
    of the name of a preset that this one inherits from, or of its default.

        PPOSettings(**preset("ppo", "toy", steps=5, kl={"coef": 0.1}))

    Args:
        changes: other values for its keys; a mapping changes the keys that it names and leaves the others.

    Raises:
        UserError: there is no such preset, or it changes other groups too, which the command line alone can.
    """
    values = _alone(_values(group, name, {}))
    for key, value in values.items():
        if isinstance(value, str) and (found := _FOLLOWS.fullmatch(value)):
            known = options().get(other := found[1], set())
            same = (option for option in _line(group, name) if option in known)
            values[key] = preset(other, next(same, "default"))[found[2]]
    return _merge(values, changes)


def last_part(path: str) -> str:
    """`max_min` of `morlaif.scalarize.functions.max_min`: what a preset calls a function by."""
    return str(path).rpartition(".")[2]


def _alone(value: Any, beside: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """`value` as it is without a whole run beside it: `${morlaif.judge:url,<otherwise>}` is <otherwise>."""
    if isinstance(value, dict):
        return {key: _alone(inner, value) for key, inner in value.items()}
    if isinstance(value, str) and (found := _LAST.fullmatch(value)):
        return last_part(beside[found[1]])
    found = re.fullmatch(r"\$\{morlaif\.judge:\w+,(.*)\}", value) if isinstance(value, str) else None
    return value if found is None else None if found[1] == "null" else found[1]


def _line(group: str, name: str) -> Iterator[str]:
    """The names of a preset and of the options that it inherits from, the nearest first."""
    yield name
    for entry in inherited(_tree(group, name), group):
        if entry is not None and not entry.place and entry.group.partition("/")[0] == group.partition("/")[0]:
            yield from _line(entry.group, entry.option)


def _tree(group: str, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf  # reads YAML as Hydra does

    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(_file(group, name))))


def _values(group: str, name: str, chosen: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """`chosen`: options by group and place, which an heir gives instead of those here."""
    tree = _tree(group, name)
    entries = inherited(tree, group)
    tree.pop("defaults", None)
    chosen = {(entry.group, entry.place): entry.option for entry in entries if entry and entry.override} | dict(chosen)
    merged: dict[str, Any] = {}
    for entry in entries:
        if entry is None:
            merged = _merge(merged, tree)
        elif not entry.override:
            part = _values(entry.group, chosen.get((entry.group, entry.place), entry.option), chosen)
            for key in reversed(entry.place.split(".") if entry.place else []):
                part = {key: part}
            merged = _merge(merged, part)
    return merged


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


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As Hydra merges: mappings key by key, all else replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
