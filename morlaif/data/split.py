"""Which examples are used, and which are held out: by hash of content and seed, never by position. Pure functions.

They see of an example two numbers alone, so that the examples themselves need not be in memory: the hash of its
content, and that of its opening. What they return are places of examples.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from morlaif.data.records import Example, content_id

Hashes = NDArray[np.uint64]  # (N,)
Places = NDArray[np.int64]


def identity(example: Example) -> int:
    """The hash of the example's content, which its name writes in hexadecimal digits."""
    return int(example.id, 16)


def opening(example: Example) -> int:
    """The hash of the dialogue's first user turn. Those that differ in case or white space alone have the same."""
    first = next(turn for turn in example.messages if turn["role"] == "user")
    return int(content_id(" ".join(unicodedata.normalize("NFC", first["content"]).casefold().split())), 16)


def draw(identities: Hashes, limit: int | None, seed: int) -> Places:
    """At most `limit` examples in a random order that `seed` fixes; a larger limit only appends."""
    return np.argsort(_shuffled("draw", identities, seed), kind="stable")[:limit]


def hold_out(openings: Hashes, size: int | None, fraction: float | None, seed: int) -> tuple[Places, Places]:
    """(train, eval), so that no opening is on both sides; eval has `size` examples or `fraction` of all.

    Dialogues that begin with the same opening are often one dialogue cut at different turns. Whole openings are held
    out, in a random order, while they fit; where none fits exactly, the smallest of the rest fills up, and what exceeds
    the size is left out of both.

    Raises:
        ValueError: there are too few openings for both.
    """
    if size is None and fraction is None:
        raise ValueError("neither a size nor a fraction is given")
    wanted = size if size is not None else max(1, round((fraction or 0.0) * len(openings)))
    keys, first, which, counts = np.unique(openings, return_index=True, return_inverse=True, return_counts=True)
    by_first = np.argsort(first, kind="stable")
    order = by_first[np.argsort(_shuffled("hold out", keys[by_first], seed), kind="stable")]
    held = np.zeros(len(keys), dtype=bool)
    rows = 0
    for key in order:
        if rows + counts[key] <= wanted:
            held[key] = True
            rows += int(counts[key])
    rest = order[~held[order]]
    if rows < wanted and len(rest):
        held[rest[np.argmin(counts[rest])]] = True  # the first of the smallest
    train, evaluation = np.flatnonzero(~held[which]), np.flatnonzero(held[which])[:wanted]
    if not len(train) or len(evaluation) < wanted:
        raise ValueError(
            f"{len(openings)} rows with {len(keys)} different first user turns cannot give {wanted} to eval and leave "
            "some to train on; lower data.eval_size or data.eval_fraction, or bring more rows"
        )
    return train, evaluation


def _shuffled(purpose: str, hashes: Sequence[int] | Hashes, seed: int) -> Hashes:
    """A random number for each hash, fixed by the seed."""
    made = (int(content_id(seed, purpose, f"{int(key):016x}"), 16) for key in hashes)
    return np.fromiter(made, dtype=np.uint64, count=len(hashes))
