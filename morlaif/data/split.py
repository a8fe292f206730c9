"""Which examples are used, and which are held out: by hash of content and seed, never by position. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from morlaif.data.records import Example, content_id


def deduplicate(examples: Sequence[Example]) -> list[Example]:
    """The examples, each content once."""
    return list({example.id: example for example in examples}.values())


def draw(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` examples in an order of chance that `seed` fixes; a larger limit only appends."""
    return sorted(examples, key=lambda example: content_id(seed, "draw", example.id))[:limit]


def hold_out(
    examples: Sequence[Example], size: int | None, fraction: float | None, seed: int
) -> tuple[list[Example], list[Example]]:
    """(train, eval), so that no prompt stands in both; eval has `size` examples or `fraction` of all.

    Prompts that differ in case or white space alone count as one. Whole prompts are held out until eval is full; of the
    last one, what exceeds the size is left out of both.

    Raises:
        ValueError: there are too few prompts for both.
    """
    wanted = size if size is not None else max(1, round(fraction * len(examples)))
    keys = [_prompt_key(example) for example in examples]
    count: dict[str, int] = {}
    for key in keys:
        count[key] = count.get(key, 0) + 1
    held, held_rows = set(), 0
    for key in sorted(count, key=lambda key: content_id(seed, "hold out", key)):
        if held_rows >= wanted:
            break
        held.add(key)
        held_rows += count[key]
    train = [example for example, key in zip(examples, keys, strict=True) if key not in held]
    evaluation = [example for example, key in zip(examples, keys, strict=True) if key in held][:wanted]
    if not train or len(evaluation) < wanted:
        raise ValueError(
            f"{len(examples)} rows of {len(count)} prompts cannot give {wanted} to eval and leave some to train on; "
            "lower data.eval_size or data.eval_fraction, or bring more rows"
        )
    return train, evaluation


def _prompt_key(example: Example) -> str:
    return content_id([[m["role"], " ".join(m["content"].casefold().split())] for m in example.messages])
