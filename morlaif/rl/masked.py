"""Statistics over the real tokens of a padded batch. `mask` is boolean and has the shape of `x`."""

from __future__ import annotations

from torch import Tensor

EPS = 1e-8
EPS_RESPONSES = 1e-4  # as GDPO and TRL have it; keeps responses of one advantage at zero


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` over the true places of `mask`, all axes: a scalar. What is elsewhere, even NaN, is not read."""
    return x.masked_fill(~mask, 0).sum() / mask.sum()


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance (divided by n - 1) over the true places of `mask`: a scalar; 0 for a single place."""
    squares = (x - masked_mean(x, mask)).masked_fill(~mask, 0).square().sum()
    return squares / (mask.sum() - 1).clamp(min=1)


def whiten(x: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
    """To mean 0 (with `keep_mean`, its own) and variance 1 over the true places; zero elsewhere. Same shape as `x`."""
    mean, var = masked_mean(x, mask), masked_var(x, mask)
    white = (x - mean) * (var + EPS).rsqrt()
    return (white + mean if keep_mean else white).masked_fill(~mask, 0)


def whiten_responses(x: Tensor, mask: Tensor) -> Tensor:
    """As `whiten`, over responses: each row counts once, whatever its length (B, T) -> (B, T).

    Whitening over tokens subtracts a mean that long responses decide. Where a response has one advantage on all its
    tokens, compared within its group, that turns signs round; the mean over responses is zero there, and turns none.
    """
    share = mask.to(x) / mask.sum(1, keepdim=True)
    mean = (x * share).sum() / len(x)
    var = ((x - mean).square() * share).sum() / max(1, len(x) - 1)
    return ((x - mean) / (var.sqrt() + EPS_RESPONSES)).masked_fill(~mask, 0)
