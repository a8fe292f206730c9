"""The best of k out of n samples: what to expect of it, for every k at once, from one set of n.

The best of k random ones of n samples is the i-th smallest with probability C(i−1, k−1) / C(n, k), so a mean under
these weights is an unbiased estimate of what the best of k fresh samples is worth (the estimator of pass@k, Chen et
al., arXiv 2107.03374, for any score). What is chosen by one score may be measured by another.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from morlaif.statistics import Array


def sizes(n: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    return [*(2**power for power in range(n.bit_length()) if 2**power < n), n]


def order_weights(n: int, k: int) -> Array:
    """(n,) the probability that the i-th smallest of n is the largest of k drawn from them without replacement."""
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: the best of k among {n} samples needs 1 <= k <= {n}")
    whole = math.comb(n, k)
    return np.array([math.comb(i, k - 1) / whole for i in range(n)])  # whole numbers until here, however large


def chosen(scores: ArrayLike, k: int) -> Array:
    """(P, n) scores of n samples for each of P prompts -> (P, n) the probability that each is the best of k of them.

    Of equally good ones each is as likely as the others.
    """
    values = np.asarray(scores, dtype=float)
    weights = order_weights(values.shape[1], k)
    made = np.empty_like(values)
    for row, found in zip(made, values, strict=True):
        _, place, count = np.unique(found, return_inverse=True, return_counts=True)
        of_place = np.add.reduceat(weights, np.concatenate([[0], np.cumsum(count)[:-1]]))
        row[:] = (of_place / count)[place]
    return made


def expected(scores: ArrayLike, k: int, worth: ArrayLike | None = None) -> Array:
    """(P,) the expected `worth` (P, n) of the best of k by `scores` (P, n); of the scores themselves by default."""
    return (chosen(scores, k) * np.asarray(scores if worth is None else worth, dtype=float)).sum(axis=1)


def kl_bound(n: int) -> float:
    """Nats that the best of n is away from the policy that was sampled, at most (Beirami et al., arXiv 2401.01879);
    exact where no response is likely (Stiennon et al., arXiv 2009.01325)."""
    return math.log(n) - (n - 1) / n
