"""One direction out of the gradients of K objectives that disagree, by their inner products alone.

Each function takes the products (K, K), float64, of gradients of losses g_k, and returns the weights (K,) >= 0 of the
combination Σ w_k g_k that is its direction. Weights rather than a direction: a reward that weighs principles by them
has that gradient, whatever loss, critic and KL come after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 1000  # of Frank-Wolfe, whose error falls as 1 / rounds or faster
CLOSE = 1e-10


def mgda(products: Tensor) -> Tensor:
    """Multiple-gradient descent (Désidéri 2012; Sener & Koltun 2018, arXiv 1810.04650, algorithm 2): the point of least
    norm in the convex hull of the gradients, by Frank-Wolfe with exact steps; of two in one step.

    Each loss falls along it, or it is zero: no direction is better for all. The weights sum to 1.
    """
    weights = torch.full_like(products[0], 1 / len(products))
    for _ in range(ROUNDS):
        slope = products @ weights
        # away from the worst that has weight, or toward the best: whichever corner promises more (pairwise steps)
        best, worst = int(slope.argmin()), int(slope.where(weights > 0, -torch.inf).argmax())
        gap = slope[worst] - slope[best]
        if gap <= CLOSE * products.diagonal().max():
            break
        length = products[best, best] - 2 * products[best, worst] + products[worst, worst]
        step = torch.minimum(weights[worst], gap / length.clamp(min=1e-300))
        weights[best] += step
        weights[worst] = 0.0 if step == weights[worst] else weights[worst] - step
    return weights


def pcgrad(products: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """Gradient surgery (Yu et al. 2020, arXiv 2001.06782, algorithm 1): each loses what points against another,

        g_i ← g_i - (g_i · g_j / g_j · g_j) g_j   where g_i · g_j < 0,

    over the others in the order `orders[i]`, which the paper draws; the direction is the sum of what is left. Without a
    conflict every weight is 1.
    """
    left = torch.eye(len(products), dtype=products.dtype)  # row i: g_i as a combination of the gradients
    for i, order in enumerate(orders):
        for j in order:
            against = left[i] @ products[:, j]
            if j != i and against < 0:
                left[i, j] -= against / products[j, j]
    return left.sum(0)
