"""Losses of single tokens. The trainer takes their mean as `ppo.loss_aggregation` has it (`aggregated`).

A policy loss takes `Actions`, further keywords of its own if it has any (`ppo.loss_params`), and returns (N,). All of a
response's tokens are in one call, so it may also look at whole responses. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

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
    clip_high: float | None = None  # ppo.clip_range_high; none: as below
    dual_clip: float | None = None  # ppo.dual_clip

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which ratios an advantage counts."""
        return 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)

    @property
    def ratio(self) -> Tensor:
        """(N,) how much more likely each token has become."""
        return (self.logprobs - self.old_logprobs).exp()


def clip(a: Actions) -> Tensor:
    """The clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), negated: -min(ρA, clip(ρ, 1 ± clip)A).

    With `clip_high` the upper bound is 1 + that (DAPO, arXiv 2503.14476, eq. 10): a token that was unlikely may become
    likely. With `dual_clip` c > 1 the loss where A < 0 is at most -cA (Ye et al. 2020, arXiv 1912.09729, eq. 3): the
    bounds leave it without one.
    """
    loss = (-a.advantages * a.ratio).maximum(-a.advantages * a.ratio.clamp(*a.bounds))
    if a.dual_clip is None:
        return loss
    return loss.minimum(-a.dual_clip * a.advantages).where(a.advantages < 0, loss)


def reinforce(a: Actions) -> Tensor:
    """-A log π (Williams 1992): of use where each step's responses are learnt from once, for it corrects nothing."""
    return -a.advantages * a.logprobs


def clip_sequence(a: Actions) -> Tensor:
    """`clip` with the ratio of the whole response, Π ρ_t, on each of its tokens: what TRL's RLOO does, and at ρ = 1 the
    gradient of RLOO itself, A ∇ log π(y | x). Of use with `loss_aggregation: sequence`."""
    return clip(sequences(a))


def sequences(a: Actions) -> Actions:
    """Each token with the log-ratio of its whole response, and with the mean of that response's advantages."""
    rows = int(a.response[-1]) + 1

    def total(x: Tensor) -> Tensor:
        return x.new_zeros(rows).index_add(0, a.response, x)[a.response]

    moved, length = total(a.logprobs - a.old_logprobs), total(a.advantages.new_ones(a.advantages.shape))
    return replace(a, logprobs=a.old_logprobs + moved, advantages=total(a.advantages) / length)


def aggregated(
    lengths: Tensor, how: Literal["token", "sequence", "constant"], tokens: int, responses: int, limit: int
) -> Tensor:
    """What each token counts, so that the sum over a minibatch divided by its `tokens` is

    token: the mean over all tokens (PPO, DAPO); sequence: the mean over responses of each one's mean (GRPO: a token of
    a long response counts less); constant: the sum over tokens / (responses · limit) (Dr. GRPO: every token counts
    the same whatever the lengths are).

    Args:
        lengths: (N,) of the response that each token belongs to.
        tokens, responses: of the whole minibatch.
        limit: ppo.max_new_tokens.
    """
    if how == "token":
        return lengths.new_ones(lengths.shape)
    return tokens / (responses * (lengths if how == "sequence" else lengths.new_full(lengths.shape, limit)))


def beyond_clip(a: Actions) -> Tensor:
    """(N,) bool: the ratio has left its bounds the way its advantage pushes it, or, where that is negative, is above
    `dual_clip`. `clip` gives no gradient there."""
    low, high = a.bounds
    beyond = ((a.ratio > high) & (a.advantages > 0)) | ((a.ratio < low) & (a.advantages < 0))
    return beyond if a.dual_clip is None else beyond | ((a.ratio > a.dual_clip) & (a.advantages < 0))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """½ max((V - R)², (V_near - R)²), V_near within ± clip of the old value (baselines' ppo2); no clip: ½(V - R)²."""
    loss = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = loss.maximum((near - returns).square())
    return 0.5 * loss
