"""Rewards that need no model. Yours may be in any module: see `FunctionReward`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from morlaif.data.records import Message


def length_near(prompts: Sequence[list[Message]], responses: Sequence[str], *, words: int) -> list[float]:
    """0 at `words` words, and minus the distance from them as a share of them."""
    return [-abs(len(text.split()) / words - 1.0) for text in responses]


def matches(prompts: Sequence[list[Message]], responses: Sequence[str], *, pattern: str) -> list[float]:
    """1 where the regular expression is found in the response, else 0: for formats."""
    return [float(re.search(pattern, text) is not None) for text in responses]
