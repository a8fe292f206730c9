"""Which responses of a step are learnt from, where several answer one prompt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Keep = Literal["all", "best", "best_and_worst"]


def learnt_from(rewards: Tensor, group: int, keep: Keep, drop_level: bool) -> Tensor:
    """(B,) bool from the shaped rewards (B,), neighbours in groups.

    Args:
        keep: all; the best of each group (best-of-n: RAFT, Dong et al. 2023, arXiv 2304.06767); or its best and its
            worst, whose rewards vary most (PODS, Xu et al. 2025, arXiv 2504.13818, for two of n). Of equals the first.
        drop_level: leave out groups whose rewards are all the same, as nothing is to be learnt from comparing them
            (dynamic sampling of DAPO, arXiv 2503.14476, section 3.2, without sampling others in their place).
    """
    groups = rewards.unflatten(0, (-1, group))
    kept = torch.ones_like(groups, dtype=torch.bool)
    if keep != "all":
        chosen = [groups.argmax(1)] if keep == "best" else [groups.argmax(1), groups.argmin(1)]
        kept = torch.zeros_like(kept).scatter(1, torch.stack(chosen, 1), True)
    if drop_level:
        kept &= ~level(groups)[:, None]
    return kept.flatten()


def level(groups: Tensor) -> Tensor:
    """(G, n) -> (G,) bool: all rewards of the group are the same, but for rounding."""
    spread = groups.amax(1) - groups.amin(1)
    return spread <= 1e-6 * groups.abs().amax(1)
