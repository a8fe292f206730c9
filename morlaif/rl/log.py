"""The row that a step leaves in the curve."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from morlaif.rl import kl
from morlaif.rl.experience import Experience
from morlaif.rl.masked import explained_variance, masked_mean
from morlaif.rl.settings import PPOSettings
from morlaif.scalarize.objective import Objective


class Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[f"seconds/{name}"] = now - self.last
        self.last = now

    def seconds(self) -> dict[str, float]:
        return {"seconds": self.last - self.start, **self.laps}


def experience_row(e: Experience, names: Sequence[str], objective: Objective, s: PPOSettings) -> dict[str, float]:
    """Means over the step's responses; of its tokens, for the entropy."""
    row = {
        "reward": e.reward.mean().item(),
        "shaped_reward": e.shaped.mean().item(),
        "kl": ((e.logprobs - e.ref_logprobs) * e.mask).sum(1).mean().item(),
        "kl_k3": (kl.k3(e.logprobs, e.ref_logprobs) * e.mask).sum(1).mean().item(),
        "entropy": masked_mean(e.entropy, e.mask).item(),
        "length": e.mask.sum(1).float().mean().item(),
        "ended": e.ended.float().mean().item(),
    }
    if s.shaping.clip is not None:
        row["reward_clipped"] = (e.shaped.abs() >= s.shaping.clip).float().mean().item()
    if s.critic.kind != "none":
        row["explained_variance"] = explained_variance(e.values, e.returns, e.value_mask).item()
    row |= score_row(objective.standardize(e.scores), names, s.shaping.clip)
    return row | {f"objective/{name}": value for name, value in objective.learnt().items()}


def score_row(normal: Tensor, names: Sequence[str], clip: float | None) -> dict[str, float]:
    """Of each principle's normalised scores (B, K): mean, deviation, and the share that lies at or beyond the clip of
    the reward, so that this principle alone would saturate it."""
    row = {}
    for name, column in zip(names, normal.unbind(1), strict=True):
        row[f"score/{name}"] = column.mean().item()
        row[f"deviation/{name}"] = column.std(correction=0).item()
        if clip is not None:
            row[f"clipped/{name}"] = (column.abs() >= clip).float().mean().item()
    return row
