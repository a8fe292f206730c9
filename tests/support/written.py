"""What the YAML of `conf/` writes: its settings, and the lines that give a key the value which it has already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import morlaif.conf
import yaml
from omegaconf import OmegaConf

from morlaif.presets import BUDGET, Inherited, inherited, options

CONF = Path(morlaif.conf.__path__[0])
ALL = {file.relative_to(CONF).as_posix(): file for file in sorted(CONF.rglob("*.yaml"))}

Key = tuple[str, ...]


def leaves(tree: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value of a tree that is no mapping, by its key. A list is one value; what a preset inherits is none."""
    for name, value in tree.items():
        if name != "defaults":
            yield from leaves(value, (*above, name)) if isinstance(value, dict) else [((*above, name), value)]


def trees() -> dict[str, dict[str, Any]]:
    return {name: OmegaConf.to_container(OmegaConf.load(file)) or {} for name, file in ALL.items()}


def heirs(files: Mapping[str, dict[str, Any]]) -> dict[str, set[str]]:
    """By preset, those that inherit from it."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in files.items():
        for entry in inherited(tree, name.rpartition("/")[0]) if "/" in name else []:
            if entry is not None:
                found[entry.file].add(name)
    return found


def idle(files: Mapping[str, dict[str, Any]]) -> list[str]:
    """Lines, as `file: key`, that change nothing wherever they are composed, with any budget, nor have a comment."""
    changes: dict[tuple[str, Key], bool] = {}

    def lay(state: dict[Key, Any], file: str, place: Key) -> None:
        for key, value in leaves(files[file]):
            full = (*place, *key)
            same = full in state and type(state[full]) is type(value) and state[full] == value
            changes[file, key] = changes.get((file, key), False) or not same
            state[full] = value

    def compose(
        state: dict[Key, Any], file: str, place: Key, budget: str, chosen: Mapping[tuple[str, str], str]
    ) -> None:
        group = file.rpartition("/")[0]
        listed = files[file].get("defaults", [])
        entries = [_overlay(entry, group, budget) for entry in listed if BUDGET in str(entry)]
        plain = iter(inherited({"defaults": listed}, group))
        order: list[Inherited | str | None] = []
        order += [entries.pop(0) if BUDGET in str(entry) else next(plain) for entry in listed]
        order += plain  # its own lines, where the list does not name them
        overrides = {(e.group, e.place): e.option for e in order if isinstance(e, Inherited) and e.override}
        chosen = overrides | dict(chosen)
        for entry in order:
            if entry is None:
                lay(state, file, place)
            elif isinstance(entry, str):
                if entry in files:
                    compose(state, entry, place, budget, chosen)
            elif not entry.override:
                option = chosen.get((entry.group, entry.place), entry.option)
                inner = tuple(entry.place.split(".")) if entry.place else ()
                compose(state, f"{entry.group}/{option}.yaml", (*place, *inner), budget, chosen)

    for file in files:
        group = file.rpartition("/")[0]
        everywhere = "@package _global_" in ALL[file].read_text(encoding="utf-8")
        if group in options() and not everywhere:
            for budget in options()["budget"]:
                compose({}, file, (), budget, {})
    unused = [line for line, used in changes.items() if not used]
    return [f"{file}: {'.'.join(key)}" for file, key in unused if not _explained(file, key)]


def _overlay(entry: Mapping[str, str], group: str, budget: str) -> str:
    """The file of `optional _budget@_here_: ${budget}`."""
    path = next(iter(entry)).split()[-1].partition("@")[0]
    return f"{path[1:] if path.startswith('/') else f'{group}/{path}'}/{budget}.yaml"


def _explained(file: str, key: Key) -> bool:
    """Whether the line has a comment of its own: the key means something else there."""
    lines = ALL[file].read_text(encoding="utf-8").splitlines()
    node: yaml.Node = yaml.compose("\n".join(lines))
    for name in key:
        assert isinstance(node, yaml.MappingNode)
        found, node = next(pair for pair in node.value if pair[0].value == name)
    return found.start_mark.line > 0 and lines[found.start_mark.line - 1].lstrip().startswith("#")
