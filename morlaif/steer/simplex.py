"""Grids on the simplex: weights of K objectives that are never negative and sum to one, in equal steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

Point = tuple[int, ...]  # K whole numbers with a common sum: weights times that sum


def grid(objectives: int, steps: int) -> list[Point]:
    """All points of `objectives` whole numbers that sum to `steps`, from the first objective alone to the last alone.

    There are C(steps + objectives - 1, objectives - 1) of them: 9 for two objectives in eight steps.
    """
    if objectives < 1 or steps < 1:
        raise ValueError(f"a grid needs an objective and a step, not {objectives} and {steps}")
    return list(_compositions(objectives, steps))


def _compositions(parts: int, total: int) -> Iterator[Point]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(parts - 1, total - first):
            yield (first, *rest)


def corner(objectives: int, which: int) -> Point:
    """One objective alone."""
    return tuple(int(k == which) for k in range(objectives))


def reduced(point: Point) -> Point:
    """The same weights in the smallest whole numbers: what a grid of any other steps calls this point too."""
    shared = math.gcd(*point)
    return tuple(part // shared for part in point)


def weights(point: Point) -> tuple[float, ...]:
    """(K,), which sum to one."""
    total = sum(point)
    return tuple(part / total for part in point)


def name_of(point: Point, names: Sequence[str]) -> str:
    """What units of a point are called: `detail` for a corner, else `detail3-conciseness5`, reduced, without zeros."""
    parts = [(name, part) for name, part in zip(names, reduced(point), strict=True) if part]
    return parts[0][0] if len(parts) == 1 else "-".join(f"{name}{part}" for name, part in parts)
