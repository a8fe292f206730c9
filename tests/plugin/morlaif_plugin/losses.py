"""A policy loss: the clip of whole responses (group sequence policy optimisation, arXiv 2507.18071)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morlaif.rl.losses import Actions
from morlaif.settings import Positive

if TYPE_CHECKING:
    from torch import Tensor


def sequence_clip(a: Actions, *, width: Positive) -> Tensor:
    """A response's ratio is the geometric mean of its tokens' ratios."""
    lengths = a.response.bincount()
    moved = a.logprobs - a.old_logprobs
    means = moved.new_zeros(len(lengths)).index_add(0, a.response, moved) / lengths
    ratio = means.exp()[a.response]
    return (-a.advantages * ratio).maximum(-a.advantages * ratio.clamp(1 - width, 1 + width))
