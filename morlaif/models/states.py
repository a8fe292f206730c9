"""Whether the states of a killed training are whole: by what was written beside each of them, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUICK = 2**26  # bytes of a state that may be read before a run


def verified(manifest: Path, most: int | None = None) -> dict[str, Any]:
    """What is written beside a state.

    Args:
        most: a state of more bytes is known by its size alone.

    Raises:
        ValueError, KeyError, OSError: the state is not what was written; says what is wrong.
    """
    facts = json.loads(manifest.read_text())
    if not isinstance(facts, dict):
        raise ValueError(f"{manifest.name} holds no object")
    path = manifest.with_suffix(".pt")
    size = path.stat().st_size
    if size != facts["size"]:
        raise ValueError(f"{size} bytes of {facts['size']}")
    if (most is None or size <= most) and hash_of(path) != facts["sha256"]:
        raise ValueError("its content is not what was written")
    return facts


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_problems(folder: Path) -> Iterator[str]:
    """A line where there are states, and none of them is whole."""
    damaged = []
    for manifest in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            verified(manifest, QUICK)
            return
        except (OSError, ValueError, KeyError) as error:
            damaged.append(all_damaged(manifest.with_suffix(".pt"), error))
    yield from damaged[:1]


def all_damaged(path: Path, error: Exception) -> str:
    return (
        f"{path} is damaged ({error}), and no other checkpoint is whole: is the disk full or failing? Remove "
        f"{path.parent} to begin anew"
    )
