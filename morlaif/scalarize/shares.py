"""A principle's scores in its own terms: as shares of the responses of the policy that training begins from.

A preference model's score has no zero and no unit, so that nine tenths of one means nothing. What both have is order:
each response beats a share of the reference's responses, and the reference's own mean share is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def wins(scores: Tensor, reference: Tensor) -> Tensor:
    """Scores (…,) -> the share in [0, 1] of the reference's scores (N,) that each beats, ties counting half.

    Between neighbouring scores of the reference a straight line, so that a gradient is there; at each of them, and
    beyond the ends, exact. The mean over the reference itself is 1/2.
    """
    import torch

    values, counts = reference.detach().to(scores).unique(sorted=True, return_counts=True)
    share = (counts.cumsum(0).to(scores) - counts.to(scores) / 2) / len(reference)
    if len(values) == 1:
        return 0.5 + 0.5 * (scores - values[0]).sign()
    above = torch.searchsorted(values, scores.detach().contiguous()).clamp(1, len(values) - 1)
    below = above - 1
    part = (scores - values[below]) / (values[above] - values[below])
    found = share[below] + part * (share[above] - share[below])
    found = torch.where(scores > values[-1], found.new_ones(()), found)
    return torch.where(scores < values[0], found.new_zeros(()), found)


def bar_of(reference: Tensor, quantile: float) -> float:
    """The lowest score of the reference (N,) that at least the share `quantile` of its scores do not exceed."""
    ordered = reference.detach().double().sort().values
    share = (ordered[:, None] >= ordered[None, :]).double().mean(1)
    return float(ordered[int((share < quantile - 1e-9).sum())])


def relative(scores: Tensor, reference: Tensor, bar: float | None) -> Tensor:
    """(…,) each response's part of a measure whose mean over the reference (N,) is 1: its ratio to the reference's.

    bar None: the share of the reference's responses that it beats, over the reference's own 1/2; from 0 to 2.
    bar q: whether it reaches the reference's q-quantile, over the share of the reference's responses that do.
    """
    if bar is None:
        return 2 * wins(scores, reference)
    edge = bar_of(reference, bar)
    passed = (reference.double() >= edge).double().mean()
    return (scores.double() >= edge).to(scores.dtype) / passed.to(scores)


def most(bar: float | None) -> float:
    """What the mean of `relative` cannot exceed, whatever the reference."""
    return 2.0 if bar is None else 1 / (1 - bar)
