"""Presets and pairs that several tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from morlaif.data.records import Pair

CONF = Path(__file__).parents[2] / "conf"


def preset(group: str, name: str) -> dict[str, Any]:
    tree = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    for base in tree.pop("defaults", ()):
        tree = tree if base == "_self_" else preset(group, base) | tree
    return tree


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
