"""Write the list of all keys from the YAML tree and its comments: `python -m morlaif.reference docs/config.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

import morlaif.conf
from morlaif.errors import UserError

HEADER = """\
# Every key of the config

Written by `make docs` from the comments in `conf/`; edit those. A key is set on the command line by its dotted path,
`morlaif ppo.steps=50`; a group's option by its name, `morlaif ppo=paper`.
"""


@dataclass(frozen=True)
class Key:
    path: str  # dotted, from the top of the config
    default: str  # as YAML, on one line
    comment: str
    line: int


def main() -> None:
    Path(sys.argv[1]).write_text(reference(Path(morlaif.conf.__path__[0])))


def reference(conf: Path) -> str:
    """The page for a config tree.

    Raises:
        UserError: keys without a comment, by file and line.
    """
    files = sorted(conf.rglob("*.yaml"), key=lambda file: (file.parent != conf, file.parent.name, file.stem))
    bare = [
        f"{file.relative_to(conf)}:{key.line}: {key.path} has no comment"
        for file in files
        for key in keys(file, conf)
        if not key.comment
    ]
    if bare:
        raise UserError("\n".join(bare))
    return "\n".join([HEADER, *(_section(file, conf) for file in files)])


def keys(file: Path, conf: Path) -> Iterator[Key]:
    """The keys of one file. Those inside lists, and a principle's own wording, belong to what stands above them."""
    text = file.read_text()
    tree = yaml.compose(text)
    global_package = "# @package _global_" in text.splitlines()
    top = "" if file.parent == conf or global_package else f"{file.parent.relative_to(conf)}.".replace("/", ".")
    if tree is not None:
        yield from _keys(tree, top, text)


def _keys(node: yaml.Node, prefix: str, text: str) -> Iterator[Key]:
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        path = prefix + name.value
        if path in ("hydra", "defaults") or path.endswith(".defaults"):
            continue
        line = name.start_mark.line
        nested = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style
        yield Key(path, "" if nested else _inline(value, text), _comment(text.splitlines(), line), line + 1)
        if nested and prefix != "principles.definitions.":
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


def _section(file: Path, conf: Path) -> str:
    relative = file.relative_to(conf)
    title = "config.yaml" if file.parent == conf else f"{relative.parent}={file.stem}"
    about = _about(file)
    rows = [f"| `{key.path}` | {_code(key.default)} | {_cell(key.comment)} |" for key in keys(file, conf)]
    table = ["| key | default | meaning |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## {title}", "", *([about, ""] if about else []), *table])


def _about(file: Path) -> str:
    """The comment at the top of a file, up to its first empty line or key."""
    about = []
    for line in file.read_text().splitlines():
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
