"""From the scalarized score of a response to the reward of each of its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from morlaif.rl.settings import ShapingSettings

EPS = 1e-8


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of all scores seen; merging is exact (Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, scores: Tensor) -> Moments:
        values = scores.double()
        mean = values.mean()
        return cls(len(values), mean.item(), (values - mean).square().sum().item())

    def merge(self, other: Moments) -> Moments:
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * other.count / count
        return Moments(count, mean, self.squares + other.squares + shift**2 * self.count * other.count / count)

    @property
    def deviation(self) -> float:
        """Unbiased; 1 while fewer than two scores, or equal ones, were seen."""
        deviation = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return deviation if deviation > EPS else 1.0


def scale(scores: Tensor, seen: Moments, settings: ShapingSettings) -> tuple[Tensor, Moments]:
    """Divide (B,) scores by their deviation, less their mean if `center`; also the statistics for the next step.

    none: as they are. batch: statistics of these scores. running: of these and all before. frozen: of the first batch.
    """
    if settings.scaling == "none":
        return scores, seen
    if settings.scaling == "batch":
        seen = Moments.of(scores)
    elif settings.scaling == "running" or not seen.count:
        seen = seen.merge(Moments.of(scores))
    return (scores - (seen.mean if settings.center else 0.0)) / seen.deviation, seen


def shape(scores: Tensor, ended: Tensor, lengths: Tensor, settings: ShapingSettings) -> Tensor:
    """Clip, then punish what was cut off before its EOS, then each token: (B,) scaled scores -> (B,).

    Args:
        ended: (B,) bool, the response was not cut off at the limit of its length.
        lengths: (B,), its number of tokens.
    """
    if settings.clip is not None:
        scores = scores.clamp(-settings.clip, settings.clip)
    if settings.missing_eos == "replace":
        scores = torch.where(ended, scores, settings.missing_eos_value)
    elif settings.missing_eos == "subtract":
        scores = scores - settings.missing_eos_value * ~ended
    return scores - settings.length_penalty * lengths


def scale_rewards(rewards: Tensor, seen: Moments) -> tuple[Tensor, Moments]:
    """Divide rewards (B, T) by the deviation of responses' totals, of all steps so far; also the moments for the next.

    The reward scaling of PPO's code (Engstrom et al. 2020, arXiv 2005.12729, section 3; gym's NormalizeReward) for
    undiscounted episodes. One factor for score and KL: what a nat costs of the score stays.
    """
    seen = seen.merge(Moments.of(rewards.sum(1)))
    return rewards / seen.deviation, seen


def token_rewards(shaped: Tensor, kl: Tensor, coef: float, mask: Tensor) -> Tensor:
    """-coef · kl at each place of `mask`, and the shaped score at the last one: (B,), (B, T) -> (B, T)."""
    rewards = -coef * kl * mask
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, shaped[:, None].to(rewards.dtype))
