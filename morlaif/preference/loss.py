"""Losses of a pair, pure functions on the two scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from morlaif.preference.settings import TrainedPM

TIE = 1e-6  # log-odds below which the judge sees no difference
MARGIN_LIMIT = 10.0  # logit gap of a judge that is certain, beyond which a margin says nothing more


def pair_losses(scores: Tensor, probability: Tensor, settings: TrainedPM) -> Tensor:
    """(B, K) losses of B pairs, 0 where `probability` (B, K) is NaN. scores: (2B, K), the first responses first.

    Which response is first needs no balancing: every loss here is symmetric under swapping both.
    """
    valid = ~probability.isnan()
    p = probability.where(valid, 0.5)
    first, second = scores.chunk(2)
    if settings.loss == "soft":
        loss = soft_bradley_terry(first, second, p)
    else:
        loss = margin_bradley_terry(first, second, p, settings.margin_scale)
    if settings.center:
        loss = loss + settings.center * centring(first, second)
    return loss * valid


def soft_bradley_terry(first: Tensor, second: Tensor, probability: Tensor) -> Tensor:
    """Cross-entropy of P(first ≻ second) = σ(s_1 - s_2) (Bradley & Terry 1952) with the judge's `probability`: (B,).

    Symmetric: swapping the two scores and p with 1 - p gives the same loss, so one order of presentation is enough.
    Ties (p = ½) pull the two scores together.
    """
    return F.binary_cross_entropy_with_logits(first - second, probability, reduction="none")


def margin_bradley_terry(first: Tensor, second: Tensor, probability: Tensor, scale: float) -> Tensor:
    """-log σ(s_better - s_worse - scale·|logit p|): (B,), the margin form of Llama 2 (2307.09288) and of the paper.

    The judge's logit gap is how far apart the two scores are asked to be. Ties have no better response and count 0.
    """
    gap = probability.logit(eps=1e-6).clamp(-MARGIN_LIMIT, MARGIN_LIMIT)
    gap = gap.where(gap.abs() > TIE, 0.0)
    return -F.logsigmoid(gap.sign() * (first - second) - scale * gap.abs()) * gap.ne(0)


def centring(first: Tensor, second: Tensor) -> Tensor:
    """(s_1 + s_2)²: (B,), holds the free offset of Bradley-Terry scores at zero (Eisenstein et al., 2312.09244)."""
    return (first + second).square()
