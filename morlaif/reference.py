"""Write the list of all keys from the YAML tree and its comments: `python -m morlaif.reference docs/config.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

import morlaif.conf
from morlaif.errors import UserError
from morlaif.presets import HIDDEN, Inherited, inherited

HEADER = """\
# Every key of the config

Written by `make docs` from the comments in `conf/`; edit those. A key is set on the command line by its dotted path,
`morlaif ppo.steps=50`; a group's option by its name, `morlaif ppo=paper`. A preset that inherits is listed with what it
changes; a key is explained where it is first given. A base is what presets inherit from, and no option.
"""
# Mappings whose keys are names, explained together.
NAMED = ("principles.definitions", "principles.ratings", "reward.weights", "weights.values")


@dataclass(frozen=True)
class Key:
    path: str  # dotted, from the top of the config
    value: str  # as YAML, on one line
    comment: str
    line: int


@dataclass(frozen=True)
class Preset:
    """One file of the tree."""

    group: str  # "" for config.yaml, "pm", "pm/_base"
    name: str
    about: str
    everywhere: bool  # it may set keys of any group
    keys: tuple[Key, ...]
    inherited: tuple[Inherited, ...]

    @property
    def file(self) -> str:
        return f"{self.group}/{self.name}.yaml".removeprefix("/")

    @property
    def base(self) -> bool:
        return _of(self.group) != self.group


def main() -> None:
    Path(sys.argv[1]).write_text(reference(Path(morlaif.conf.__path__[0])))


def reference(conf: Path) -> str:
    """The page for a config tree.

    Raises:
        UserError: keys that neither their file nor one that it inherits from explains, by file and line.
    """
    presets = {preset.file: preset for preset in (_read(file, conf) for file in conf.rglob("*.yaml"))}
    bare = [line for preset in presets.values() for line in _unexplained(preset, presets)]
    if bare:
        raise UserError("\n".join(sorted(bare)))
    order = sorted(presets.values(), key=lambda preset: (_of(preset.group), _depth(preset, presets), preset.name))
    return "\n".join([HEADER, *map(_section, order)])


def _of(group: str) -> str:
    """The group that a base serves; itself for all others."""
    return "/".join(part for part in group.split("/") if not part.startswith(HIDDEN))


def _depth(preset: Preset, presets: Mapping[str, Preset]) -> int:
    """How many presets of the group it inherits from, one from another: bases come first."""
    own = [presets[entry.file] for entry in preset.inherited if _of(entry.group) == _of(preset.group)]
    return max((_depth(other, presets) + 1 for other in own if other is not preset), default=0 if preset.base else 1)


def _unexplained(preset: Preset, presets: Mapping[str, Preset]) -> list[str]:
    family = list(presets.values()) if preset.everywhere or preset.base else [preset]
    family += [one for own in family for one in _ancestors(own, presets)]
    explained = {key.path for one in family for key in one.keys if key.comment}
    explained |= {_top(one.group) + entry.place for one in family for entry in one.inherited}  # by what lies there
    explained |= {other.group for other in presets.values()}  # as keys of a preset that sets those of several groups
    return [
        f"{preset.file}:{key.line}: {key.path} has no comment"
        for key in preset.keys
        if not key.comment and key.path not in explained
    ]


def _ancestors(preset: Preset, presets: Mapping[str, Preset]) -> Iterator[Preset]:
    """What a preset takes keys from, with the keys where they come to lie."""
    for entry in preset.inherited:
        other = presets[entry.file]
        top, place = _top(other.group), _top(preset.group) + (f"{entry.place}." if entry.place else "")
        for one in (other, *_ancestors(other, presets)):
            yield replace(one, keys=tuple(replace(key, path=place + key.path.removeprefix(top)) for key in one.keys))


def _read(file: Path, conf: Path) -> Preset:
    text = file.read_text(encoding="utf-8")
    group = "" if file.parent == conf else file.parent.relative_to(conf).as_posix()
    everywhere = "# @package _global_" in text.splitlines()
    node = yaml.compose(text)
    keys = _keys(node, "" if everywhere else _top(group), text) if node is not None else ()
    entries = inherited(yaml.safe_load(text) or {}, group) if group else []
    return Preset(group, file.stem, _about(text), everywhere, tuple(keys), tuple(entry for entry in entries if entry))


def _top(group: str) -> str:
    return f"{_of(group)}.".replace("/", ".") if group else ""


def _keys(node: yaml.Node, prefix: str, text: str) -> Iterator[Key]:
    """The keys of one file. Those inside lists, and those that are names, belong to what is above them."""
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        path = prefix + name.value
        if path in ("hydra", "defaults") or path.endswith(".defaults"):
            continue
        line = name.start_mark.line
        nested = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style and path not in NAMED
        yield Key(path, "" if nested else _inline(value, text), _comment(text.splitlines(), line), line + 1)
        if nested:
            yield from _keys(value, path + ".", text)


def _comment(lines: list[str], line: int) -> str:
    """The lines of comment directly above a key, or the one behind it."""
    above = []
    while (
        line > 0 and lines[line - 1].lstrip().startswith("#") and not lines[line - 1].lstrip().startswith("# @package")
    ):
        line -= 1
        above.append(lines[line].strip().lstrip("# "))
    return " ".join(reversed(above))


def _inline(node: yaml.Node, text: str) -> str:
    """A value as it is written, on one line; a long list by its length."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return f"[{len(node.value)} entries]"
    return " ".join(text[node.start_mark.index : node.end_mark.index].split())


def _section(preset: Preset) -> str:
    title = _title(preset.group, preset.name) if preset.group else "config.yaml"
    above = [
        _title(entry.group, entry.option)
        for entry in preset.inherited
        if _of(entry.group) == preset.group and not entry.place
    ]
    beside = [_beside(entry, preset) for entry in preset.inherited if _of(entry.group) != preset.group or entry.place]
    lines = [*([preset.about] if preset.about else []), *_list("Inherits", above), *_list("With", beside)]
    given = [key for key in preset.keys if key.value or key.comment]
    meant = any(key.comment for key in given)
    rows = [f"| `{key.path}` | {_code(key.value)} |{f' {_cell(key.comment)} |' if meant else ''}" for key in given]
    head = ["| key | value | meaning |", "|---|---|---|"] if meant else ["| key | value |", "|---|---|"]
    return "\n".join([f"## {title}", "", *(line + "\n" for line in lines), *([*head, *rows, ""] if rows else [])])


def _title(group: str, name: str) -> str:
    return f"{group}={name}" if group == _of(group) else f"{_of(group)}: base {name}"


def _beside(entry: Inherited, preset: Preset) -> str:
    """An option of another group, and where its keys go."""
    place = f"{_of(preset.group)}.{entry.place}".replace("/", ".")
    group = entry.group if entry.group.replace("/", ".") in (place, entry.place) else f"{entry.group}@{place}"
    return f"{group}={entry.option}"


def _list(word: str, names: Sequence[str]) -> list[str]:
    return [f"{word} {', '.join(f'`{name}`' for name in names)}."] if names else []


def _about(text: str) -> str:
    """The comment at the top of a file, up to its first empty line or key."""
    about = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        about.append(line.lstrip("# ").strip())
    return " ".join(about)


def _code(text: str) -> str:
    return f"`{_cell(text if len(text) <= 60 else text[:57] + '…')}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
