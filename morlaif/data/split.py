"""Which examples are used, and which are held out: by hash of content and seed, never by position. Pure functions."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from morlaif.data.records import Example, content_id


def deduplicate(examples: Sequence[Example]) -> list[Example]:
    """The examples, each content once."""
    return list({example.id: example for example in examples}.values())


def draw(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` examples in a random order that `seed` fixes; a larger limit only appends."""
    return sorted(examples, key=lambda example: content_id(seed, "draw", example.id))[:limit]


def hold_out(
    examples: Sequence[Example], size: int | None, fraction: float | None, seed: int
) -> tuple[list[Example], list[Example]]:
    """(train, eval), so that no opening is on both sides; eval has `size` examples or `fraction` of all.

    The opening is a dialogue's first user turn: dialogues that begin with the same one are often one dialogue cut at
    different turns. Those that differ in case or white space alone count as one. Whole openings are held out, in a
    random order, while they fit; where none fits exactly, the smallest of the rest fills up, and what exceeds the
    size is left out of both.

    Raises:
        ValueError: there are too few openings for both.
    """
    if size is None and fraction is None:
        raise ValueError("neither a size nor a fraction is given")
    wanted = size if size is not None else max(1, round((fraction or 0.0) * len(examples)))
    keys = [_opening(example) for example in examples]
    count = Counter(keys)
    order = sorted(count, key=lambda key: content_id(seed, "hold out", key))
    held: set[str] = set()
    rows = 0
    for key in order:
        if rows + count[key] <= wanted:
            held.add(key)
            rows += count[key]
    if rows < wanted and (rest := [key for key in order if key not in held]):
        held.add(min(rest, key=count.__getitem__))  # the first of the smallest
    train = [example for example, key in zip(examples, keys, strict=True) if key not in held]
    evaluation = [example for example, key in zip(examples, keys, strict=True) if key in held][:wanted]
    if not train or len(evaluation) < wanted:
        raise ValueError(
            f"{len(examples)} rows with {len(count)} different first user turns cannot give {wanted} to eval and leave "
            "some to train on; lower data.eval_size or data.eval_fraction, or bring more rows"
        )
    return train, evaluation


def openings(examples: Sequence[Example]) -> int:
    """How many different first user turns there are."""
    return len(set(map(_opening, examples)))


def _opening(example: Example) -> str:
    first = next(turn for turn in example.messages if turn["role"] == "user")
    return content_id(" ".join(unicodedata.normalize("NFC", first["content"]).casefold().split()))
