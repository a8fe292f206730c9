"""The objective that a policy is trained on: raw scores of K preference models in, one number out.

Order: raw → centre and scale by frozen statistics → direction → weight → scalarize.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from morlaif.errors import UserError, suggest
from morlaif.scalarize.registry import Scalarizer


@dataclass(frozen=True)
class Objective:
    """Weighted, normalised and scalarized scores. Principles of weight zero leave it before the scalarizer:

    under a minimum or a product a constant zero would speak for them.
    """

    names: tuple[str, ...]  # the K principles, in the order of the columns
    mean: Tensor  # (K,) of the raw scores on reference responses
    scale: Tensor  # (K,) deviation there, > 0
    direction: Tensor  # (K,) +1 or -1: whether more is better
    weight: Tensor  # (K,) >= 0
    scalarizer: Callable[..., Tensor]  # (B, K') -> (B,)

    def __post_init__(self) -> None:
        for field in ("mean", "scale", "direction", "weight"):
            value = torch.as_tensor(getattr(self, field), dtype=torch.float32)
            if value.shape != (len(self.names),) or not value.isfinite().all():
                raise UserError(f"objective: `{field}` must hold {len(self.names)} finite numbers, one a principle")
            object.__setattr__(self, field, value)
        if len(set(self.names)) != len(self.names):
            raise UserError(f"objective: a principle stands twice in {', '.join(self.names)}")
        if not (self.scale > 0).all():
            raise UserError(f"objective: scale of '{self.names[int(self.scale.argmin())]}' is not above zero")
        if not (self.direction.abs() == 1).all():
            raise UserError("objective: `direction` holds +1 or -1 only")
        if (self.weight < 0).any():
            name = self.names[int(self.weight.argmin())]
            raise UserError(f"objective: weight of '{name}' is negative; give it direction -1 and a positive weight")
        if not (self.weight > 0).any():
            raise UserError("objective: every weight is zero; at least one principle must count")

    @property
    def active(self) -> tuple[str, ...]:
        """The principles that reach the scalarizer."""
        return tuple(name for name, weight in zip(self.names, self.weight.tolist(), strict=True) if weight > 0)

    def normalize(self, scores: Tensor) -> Tensor:
        """(B, K) raw -> (B, K) centred and scaled; direction and weight not yet applied."""
        if scores.ndim != 2 or scores.shape[-1] != len(self.names):
            raise UserError(
                f"objective: expected scores (batch, {len(self.names)}) for {', '.join(self.names)}, "
                f"got {tuple(scores.shape)}"
            )
        return (scores - self.mean.to(scores)) / self.scale.to(scores)

    def weigh(self, normalized: Tensor) -> Tensor:
        """(B, K) normalised -> (B, K') with direction and weight applied, principles of weight zero left out."""
        kept = self.weight > 0
        return (normalized * (self.direction * self.weight).to(normalized))[:, kept.to(normalized.device)]

    def __call__(self, scores: Tensor) -> Tensor:
        """(B, K) raw scores -> (B,)."""
        weighted = self.weigh(self.normalize(scores))
        if isinstance(self.scalarizer, Scalarizer):
            return self.scalarizer(weighted, names=self.active, weights=self.weight[self.weight > 0].to(weighted))
        return self.scalarizer(weighted)

    def select(self, names: Sequence[str]) -> Objective:
        """The same objective for columns in the order of `names`; a missing principle is an error that names it."""
        for name in names:
            if name not in self.names:
                has = ", ".join(self.names)
                raise UserError(f"the objective has no principle '{name}' (it has: {has}).{suggest(name, self.names)}")
        index = torch.tensor([self.names.index(name) for name in names], dtype=torch.long)
        fields = {key: getattr(self, key)[index] for key in ("mean", "scale", "direction", "weight")}
        return replace(self, names=tuple(names), **fields)

    def save(self, path: Path, **details: Any) -> None:
        """Write names, statistics and weights as JSON, with `details` beside them; the scalarizer is not part of it."""
        fields = {key: getattr(self, key).tolist() for key in ("mean", "scale", "direction", "weight")}
        path.write_text(json.dumps({"names": list(self.names), **fields, **details}, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, scalarizer: Callable[..., Tensor], names: Sequence[str] | None = None) -> Objective:
        """Read what `save` wrote; with `names`, in their order."""
        stored = json.loads(path.read_text())
        fields = {key: torch.tensor(stored[key]) for key in ("mean", "scale", "direction", "weight")}
        objective = cls(names=tuple(stored["names"]), scalarizer=scalarizer, **fields)
        return objective if names is None else objective.select(names)
