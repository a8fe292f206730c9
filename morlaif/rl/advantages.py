"""How much better than expected was each token? One pure function for each estimator.

Shapes: B responses of at most T tokens, padded on the right; `mask` (B, T) is true on response tokens. The grouped
estimators take the B responses as B / n groups of n neighbours that answer one prompt. Padding is zero in every result.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-4  # keeps a group of equal rewards at zero instead of at noise over noise


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        A_t = Σ_k (γλ)^k δ_{t+k},   δ_t = r_t + γ V_{t+1} - V_t,   V after the last token is 0

    Args:
        rewards: (B, T), of each token.
        values: (B, T), the critic's estimate before each token.

    Returns:
        Advantages (B, T) and returns (B, T) = advantages + values, the critic's target.
    """
    rewards, values = rewards * mask, values * mask
    following = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], dim=1)
    advantages = discounted(rewards + gamma * following - values, gamma * lam)
    return advantages * mask, (advantages + values) * mask


def discounted(x: Tensor, discount: float) -> Tensor:
    """Sums to go, Σ_k discount^k x_{t+k}: (B, T) -> (B, T)."""
    total, columns = torch.zeros_like(x[:, 0]), []
    for column in reversed(x.unbind(1)):
        total = column + discount * total
        columns.append(total)
    return torch.stack(columns[::-1], dim=1)


def reinforce_pp(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """REINFORCE++ (Hu 2025, arXiv 2501.03262): returns to go, (B, T) -> (B, T); its baseline is the whitening after."""
    return discounted(rewards * mask, gamma) * mask


def rloo(rewards: Tensor, n: int) -> Tensor:
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740, section 2).

    Each reward minus the mean of its group's others: (B,) -> (B,).
    """
    groups = _groups(rewards, n)
    others = (groups.sum(1, keepdim=True) - groups) / (n - 1)
    return (groups - others).flatten()


def grpo(rewards: Tensor, n: int) -> Tensor:
    """Group-relative (DeepSeekMath, arXiv 2402.03300, section 4.1): (r - mean) / deviation of the group. (B,)."""
    return group_normalized(rewards[:, None], n)[:, 0]


def gdpo(rewards: Tensor, n: int) -> Tensor:
    """Group-reward-decoupled (arXiv 2601.05242): the rewards combine scores that went through `group_normalized` apart.

    Here only their group's mean goes, which a non-linear scalarizer leaves behind; whitening the batch follows.
    (B,) -> (B,).
    """
    groups = _groups(rewards, n)
    return (groups - groups.mean(1, keepdim=True)).flatten()


def group_normalized(scores: Tensor, n: int) -> Tensor:
    """Each of K columns to mean 0 and deviation 1 within each group of n rows: (B, K) -> (B, K)."""
    groups = scores.unflatten(0, (-1, n))  # (B/n, n, K)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + EPS)).flatten(0, 1)


def spread(advantages: Tensor, mask: Tensor) -> Tensor:
    """A response's advantage on each of its tokens: (B,) and (B, T) -> (B, T)."""
    return advantages[:, None] * mask


def _groups(rewards: Tensor, n: int) -> Tensor:
    return rewards.unflatten(0, (-1, n))
