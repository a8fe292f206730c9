"""The row that a step leaves in the curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from morlaif.rl import diagnostics, kl
from morlaif.rl.experience import Experience
from morlaif.rl.groups import level
from morlaif.rl.masked import masked_mean
from morlaif.rl.settings import PPOSettings
from morlaif.scalarize.objective import Objective


class Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[f"seconds/{name}"] = self.laps.get(f"seconds/{name}", 0.0) + now - self.last
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
        "length_max": float(e.mask.sum(1).max()),
        "ended": e.ended.float().mean().item(),
        "stopped": e.stopped.float().mean().item(),
    }
    if s.shaping.clip is not None:
        row["reward_clipped"] = (e.shaped.abs() >= s.shaping.clip).float().mean().item()
    if s.critic.kind != "none":
        values, returns = e.values[e.value_mask], e.returns[e.value_mask]
        sums = diagnostics.value_sums(values, values, returns, None)
        found = {name: value.item() for name, value in sums.items()}
        row["explained_variance"] = diagnostics.explained_variance(found, len(values))
    if e.weights is not None:
        row["sampler/weight"] = masked_mean(e.weights, e.mask).item()
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


def objectives_row(
    objective: Objective, normal: Tensor, target: Tensor, group: int, combine: Callable[[Tensor], Tensor]
) -> tuple[dict[str, float], dict[str, Any]]:
    """What each principle has to do with the reward, for those that have a weight; numbers, and their tables.

    Args:
        normal: (B, K) scores as they were combined, before direction and weight.
        target: (B,) what was made of them.
        group: neighbours that answer one prompt.
        combine: (B, K) -> (B,), what made it.
    """
    names = objective.active
    if len(names) < 2:
        return {}, {}
    row, tables = angles_row("advantage", names, diagnostics.cosines(gains_of(objective, normal, target, group)))
    slope = diagnostics.slopes(combine, normal)
    if slope is not None:
        kept = objective.counts.to(slope.device)
        row |= named("decides", names, diagnostics.deciding(slope)[kept])
        row |= named("variance_share", names, diagnostics.variance_shares(slope, normal, target)[kept])
    return row, tables


def weighted_sum(objective: Objective, factors: Tensor, normal: Tensor) -> Tensor:
    """(B, K) normalised scores -> (B,): their weighted sum, each principle that has a weight times its factor (K',)."""
    weighted = objective.weigh(normal)
    return weighted @ factors.to(weighted)


def gains_of(objective: Objective, normal: Tensor, target: Tensor, group: int) -> Tensor:
    """(B, K' + 1) what each response gains over its baseline under each principle that has a weight, and under all."""
    return diagnostics.centred(torch.cat([objective.weigh(normal), target[:, None]], 1), group)


def angles_row(what: str, names: Sequence[str], angles: Tensor) -> tuple[dict[str, float], dict[str, Any]]:
    """Numbers and table of (K + 1, K + 1) cosines, the reward's last."""
    row = named(f"{what}_cosine", names, angles[-1, :-1]) | _pair_row(what, angles[:-1, :-1])
    return row, {f"cosines/{what}": diagnostics.matrix(names, angles[:-1, :-1])}


def _pair_row(what: str, angles: Tensor) -> dict[str, float]:
    """Of (K, K) cosines between principles: the least, and the share of pairs that point apart."""
    pairs = angles[torch.ones_like(angles, dtype=torch.bool).triu(1)]
    pairs = pairs[pairs.isfinite()]
    if not len(pairs):
        return {}
    least, apart = pairs.min().item(), (pairs < 0).double().mean().item()
    return {f"{what}_cosine_min": least, f"{what}_conflicts": apart}


def left_out(shaped: Tensor, kept: Tensor, s: PPOSettings) -> dict[str, float]:
    """How many groups have one reward, and of how many responses nothing is learnt; where the settings choose."""
    if s.learn_from == "all" and not s.drop_level_groups:
        return {}
    groups = level(shaped.unflatten(0, (-1, s.samples_per_prompt)))
    return {"groups_level": float(groups.sum()), "responses_left_out": float((~kept).sum())}


def histograms(e: Experience) -> dict[str, Any]:
    """Of the tokens' advantages and of the responses' shaped rewards, as they are learnt from."""
    return {
        "histogram/advantage": diagnostics.histogram(e.advantages[e.mask]),
        "histogram/shaped_reward": diagnostics.histogram(e.shaped),
    }


def named(what: str, names: Sequence[str], values: Tensor) -> dict[str, float]:
    """Those that are known: NaN is no number for a log."""
    found = zip(names, values.tolist(), strict=True)
    return {f"{what}/{name}": value for name, value in found if value == value}
