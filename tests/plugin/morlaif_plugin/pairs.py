from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from morlaif.dpo.losses import Compared

if TYPE_CHECKING:
    from torch import Tensor


def hinge(c: Compared) -> Tensor:
    """SLiC's (arXiv 2305.10425): nothing is left to learn of a pair whose better side is ahead by 1."""
    return torch.relu(1 - (2 * c.target - 1).sign() * c.logits)
