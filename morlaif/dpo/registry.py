"""Losses of pairs by name, without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from morlaif.dpo.losses import Compared
from morlaif.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

PairLoss: TypeAlias = "Callable[[Compared], Tensor]"

LOSSES: Registry[PairLoss] = Registry(
    "pair_loss", "dpo.loss", "morlaif.dpo.losses", {name: f"morlaif.dpo.losses.{name}" for name in ("sigmoid", "ipo")}
)
