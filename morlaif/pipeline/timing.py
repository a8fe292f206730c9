"""What a plan says of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    seconds: Mapping[str, float | None]  # by unit; None: not known
    source: str  # where they come from

    @property
    def total(self) -> float | None:
        """Of all units that are to be built, one after another; None where some are not known."""
        known = [one for one in self.seconds.values() if one is not None]
        return sum(known) if len(known) == len(self.seconds) else None
