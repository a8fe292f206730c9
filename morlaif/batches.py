"""Microbatches: rows of an optimizer step = rows of a forward × ranks × forwards accumulated."""

from __future__ import annotations

from typing import NamedTuple

from morlaif.errors import UserError


class Microbatches(NamedTuple):
    micro: int  # rows of one forward on each rank
    accumulation: int  # forwards of each rank for one optimizer step


def microbatches(batch: int, most: int | None, ranks: int, *, key: str) -> Microbatches:
    """As few forwards as there can be with at most `most` rows each; None: one.

    Raises:
        UserError: `batch` is no multiple of `ranks`; `key` names the settings.
    """
    share, over = divmod(batch, ranks)
    if over:
        near = f"{batch - over} or {batch - over + ranks}" if share else str(ranks)
        raise UserError(f"{key}.batch_size={batch} cannot be shared evenly by {ranks} ranks; take {near}")
    micro = next(rows for rows in range(min(most or share, share), 0, -1) if share % rows == 0)
    return Microbatches(micro, share // micro)
