"""Pairs that several tests use."""

from __future__ import annotations

from morlaif.data.records import Pair


def make_pairs(count: int) -> list[Pair]:
    def worth(i: int) -> float:
        return ((i * 7919) % 61 - 30) / 10.0

    return [
        Pair.of(
            [{"role": "user", "content": f"Question {i}?"}],
            f"An answer worth {worth(i):.2f} in all.",
            f"Another answer, worth {worth(i + 1000):.2f}.",
            human=float(i % 2),
        )
        for i in range(count)
    ]
