"""What survives a kill: one file, replaced in one move, so that it is whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from morlaif.errors import UserError

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{NAME}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)


def load(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The last state saved here, or None.

    Raises:
        UserError: it belongs to a run with other settings or another seed.
    """
    path = folder / NAME
    for partial in folder.glob(f"{NAME}.*.partial"):  # left by a kill in the middle of `save`
        partial.unlink()
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise UserError(f"{path}: this checkpoint belongs to other settings or another seed; remove it to begin anew")
    return state
