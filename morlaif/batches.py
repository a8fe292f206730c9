"""How a batch is cut: rows of an optimizer step = rows of a forward × ranks × forwards accumulated."""

from __future__ import annotations

from typing import NamedTuple

from morlaif.errors import UserError


class Cut(NamedTuple):
    micro: int  # rows of one forward on each rank
    accumulation: int  # forwards of each rank for one optimizer step


def cut(batch: int, micro: int | None, ranks: int, *, key: str) -> Cut:
    """`micro` None: as few forwards as there can be, one for each rank.

    Raises:
        UserError: `batch` is no multiple of the rows that all ranks take at once; `key` names the settings.
    """
    at_once = ranks * (micro or 1)
    if batch % at_once:
        least, over = batch - batch % at_once, batch + at_once - batch % at_once
        near = f"{least} or {over}" if least else f"{over}"
        each = f" with {micro} rows a forward" if micro else ""
        raise UserError(
            f"{key}.batch_size={batch} cannot be cut evenly over {ranks} ranks{each}: take {near}, or another "
            f"{key}.micro_batch_size"
        )
    micro = micro or batch // ranks
    return Cut(micro, batch // (micro * ranks))
