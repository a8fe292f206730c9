"""Losses of single tokens. The trainer sums them and divides by the tokens of the whole minibatch.

A policy loss takes `Actions`, further keywords of its own if it has any (`ppo.loss_params`), and returns (N,). All of a
response's tokens are in one call, so it may also look at whole responses. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Actions:
    """N sampled tokens of some responses. Gradients flow through `logprobs` alone."""

    logprobs: Tensor  # (N,) under the policy as it is
    old_logprobs: Tensor  # (N,) under the policy that sampled them
    ref_logprobs: Tensor  # (N,) under the reference
    advantages: Tensor  # (N,)
    response: Tensor  # (N,) 0, 1, … : which response each token belongs to, ascending
    clip: float  # ppo.clip_range

    @property
    def ratio(self) -> Tensor:
        """(N,) how much more likely each token has become."""
        return (self.logprobs - self.old_logprobs).exp()


def clip(a: Actions) -> Tensor:
    """The clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), negated: -min(ρA, clip(ρ, 1 ± clip)A)."""
    return (-a.advantages * a.ratio).maximum(-a.advantages * a.ratio.clamp(1 - a.clip, 1 + a.clip))


def beyond_clip(a: Actions) -> Tensor:
    """(N,) bool: the ratio has left 1 ± clip the way its advantage pushes it. `clip` gives no gradient there."""
    return ((a.ratio > 1 + a.clip) & (a.advantages > 0)) | ((a.ratio < 1 - a.clip) & (a.advantages < 0))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """½ max((V - R)², (V_near - R)²), V_near within ± clip of the old value (baselines' ppo2); no clip: ½(V - R)²."""
    loss = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = loss.maximum((near - returns).square())
    return 0.5 * loss
