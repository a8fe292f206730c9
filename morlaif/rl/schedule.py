"""Pure functions of seed and step: no hidden generator state, so a resumed run draws what an unbroken one would."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from morlaif.data.spool import Picked
from morlaif.errors import UserError
from morlaif.rl.settings import OptimizerSettings

T = TypeVar("T")


def derive_seed(seed: int, purpose: str, step: int) -> int:
    """A seed of its own for each purpose and step."""
    return random.Random(f"{seed}/{purpose}/{step}").getrandbits(63)


def generator(seed: int, purpose: str, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose, step))


def stream(size: int, start: int, count: int, seed: int) -> list[int]:
    """Places `start` … `start + count` of an endless stream of 0 … size - 1, shuffled anew for each pass."""
    rows: list[int] = []
    while len(rows) < count:
        epoch, place = divmod(start + len(rows), size)
        order = torch.randperm(size, generator=generator(seed, "prompts", epoch)).tolist()
        rows += order[place : place + count - len(rows)]
    return rows


def hold_out(items: Sequence[T], count: int, seed: int, key: str = "ppo.eval_prompts") -> tuple[Sequence[T], list[T]]:
    """`items` in their order, less `count` that are drawn at random, and those.

    Raises:
        UserError: nothing would be left.
    """
    if count and count >= len(items):
        raise UserError(f"{key}: {count} leaves none of the {len(items)} training prompts to train on")
    drawn = set(torch.randperm(len(items), generator=generator(seed, "hold out", 0))[:count].tolist())
    return Picked(items, [i for i in range(len(items)) if i not in drawn]), [items[i] for i in sorted(drawn)]


def seed_globals(seed: int, purpose: str, step: int) -> None:
    """For code that draws from the process's own generators, such as a user's reward."""
    value = derive_seed(seed, purpose, step)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def learning_rate(update: int, total: int, peak: float, settings: OptimizerSettings) -> float:
    """The rate of update 0 … total - 1: linear from peak / warmup to peak, then constant, or down to zero."""
    warmup = settings.warmup_steps
    if update < warmup:
        return peak * (update + 1) / warmup
    if settings.schedule == "constant":
        return peak
    done = (update - warmup) / max(1, total - warmup)
    return peak * (1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
