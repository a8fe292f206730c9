"""Scalarizers over as many scores as each row has: a score that is not there changes nothing.

Rows with equally many scores are put together, close up, and given to the scalarizer as they are; so every scalarizer
does it that looks at scores and weights alone. One that knows its columns by name, or learns about them, cannot: where
scores are missing, a column is not one principle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from morlaif.errors import UserError
from morlaif.scalarize.registry import Scalarizer, context_of

if TYPE_CHECKING:
    from torch import Tensor


def check_maskable(scalarizer: Scalarizer, key: str = "scalarizer") -> None:
    """
    Raises:
        UserError: it reads the names of its columns, or keeps a state of them, or compares them with those of SFT.
    """
    if context_of(scalarizer.function) & {"names", "state", "sft_scores"}:
        raise UserError(
            f"{key}: {scalarizer.name} knows its principles by name, and criteria differ from prompt to prompt; take "
            "one that does not, such as linear, max_min, soft_max_min, lower_quantile, log_sum_exp or cvar"
        )


def masked(scalarizer: Scalarizer, scores: Tensor, weights: Tensor) -> Tensor:
    """(B, K) scores, NaN where there is none, and their weights (B, K) -> (B,).

    A negative weight flips its score, one of zero takes it out, as an `Objective` does.

    Raises:
        ValueError: a row without any score.
    """
    import torch

    kept = ~scores.isnan() & (weights != 0)
    counts = kept.sum(1)
    if not bool((counts > 0).all()):
        raise ValueError(f"row {int(counts.argmin())} has no score that counts")
    sizes = weights.abs()
    weighted = torch.where(kept, scores * weights, 0.0)
    columns = kept.int().sort(dim=1, descending=True, stable=True).indices  # those that are there first, in order
    value = scores.new_zeros(len(scores))
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        at = columns[rows, :count]
        value[rows] = scalarizer(weighted[rows].gather(1, at), weights=sizes[rows].gather(1, at))
    return value
