"""One bad input: a command line, the files it meets, and the answer that it deserves."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

USER, MACHINE = 2, 1  # exit codes: a mistake of the user, a failure of the machine
FOLDER = None  # in place of a file's content
Content: TypeAlias = str | bytes | None


@dataclass(frozen=True)
class Kit:
    """What cases may copy into their folder; made once by the script."""

    model: Path  # a tiny random language model in Hugging Face format
    run: Path  # a folder with store/ and runs/ of a finished run, without the models
    server: str  # the address of a small HTTP server: <server>/<manner>/v1

    def copy_run(self, folder: Path) -> None:
        """The finished run as `folder`/store and `folder`/runs/finished."""
        shutil.copytree(self.run, folder, dirs_exist_ok=True)
        file = folder / "runs" / "finished" / "config.json"
        config = json.loads(file.read_text())
        config["paths"] = {"store": str(folder / "store"), "runs": str(folder / "runs")}
        file.write_text(json.dumps(config))


@dataclass(frozen=True)
class Case:
    """The command runs in a folder of its own, where `files` lie, with its store and its runs in it.

    `wants` are regular expressions; each must be found in standard error, which must hold no traceback, at most `lines`
    lines and nothing that steers a terminal. Of stages, only those of `built` may be in the store at the end, and no
    run may be called a success.
    """

    name: str
    arguments: tuple[str, ...]
    wants: tuple[str, ...]
    code: int = USER
    files: Mapping[str, Content] = field(default_factory=dict)
    prepare: Callable[[Path, Kit], Any] | None = None  # more of the folder than files
    environment: Mapping[str, str | None] = field(default_factory=dict)
    lines: int = 1
    built: frozenset[str] = frozenset()
    out: str = ""  # standard output must hold this
    real: bool = False  # as a process of its own, `python -m morlaif`
    limit: float = 60.0  # seconds


def case(name: str, command: str | Sequence[str], *wants: str, **more: Any) -> Case:
    """`command` is split at blanks; a list where an argument has some. What it builds, it builds in its own process."""
    words = command.split() if isinstance(command, str) else list(command)
    builds = any(word.startswith("stages=[") and "compare" not in word for word in words)
    if builds and "dry_run=true" not in words and not any(word.startswith("hardware") for word in words):
        words.append("hardware.workers=1")
    return Case(name, tuple(words), wants, **more)


def jsonl(*rows: Any) -> str:
    """Rows as lines of JSON; a text is a line as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def packed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)
