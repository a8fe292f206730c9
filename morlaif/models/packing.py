"""Dialogues one behind the other in one row, with no padding between them: `hardware.packing`.

What keeps them apart is transformers' own: where positions begin anew and no mask is given, flash attention takes each
dialogue by itself, and other attention gets a mask by blocks, which costs the square of the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from morlaif.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

enabled = False  # `hardware.packing`


def check(model: PreTrainedModel) -> None:
    """
    Raises:
        UserError: dialogues in one row are not kept apart.
    """
    if fault := packing_fault(model):
        raise UserError(
            f"hardware.packing: {type(model).__name__} reads dialogues packed into one row otherwise than each alone "
            f"({fault}); use hardware.packing=false"
        )


@torch.no_grad()
def packing_fault(model: PreTrainedModel) -> str | None:
    """How the last states of two dialogues in one row differ from those of each alone; None: they do not."""
    from morlaif.models.head import last_states  # not at the top: the switch is set where no model is read
    from morlaif.models.layers import trunk_of

    count, device = model.get_input_embeddings().weight.shape[0], model.device
    rows = [torch.tensor([[(7 * i + 3 + j) % count for i in range(6 - 2 * j)]], device=device) for j in range(2)]
    places = [torch.arange(row.shape[1], device=device)[None] for row in rows]
    trunk = trunk_of(model)
    found = last_states(trunk, torch.cat(rows, 1), torch.cat(places, 1)).float()
    wanted = torch.cat([last_states(trunk, *own) for own in zip(rows, places, strict=True)], 1).float()
    if found.shape != wanted.shape:
        return f"{tuple(found.shape)} states in place of {tuple(wanted.shape)}"
    exact = model.dtype in (torch.float32, torch.float64)
    apart, size = float((found - wanted).abs().max()), float(wanted.abs().max())
    return None if apart <= (1e-4 if exact else 5e-2) * max(size, 1.0) else f"by {apart:.3g} in states of {size:.3g}"
