"""What a plan says of time, and how a time is written."""

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


def duration(seconds: float | None) -> str:
    """
    >>> [duration(one) for one in (None, 0.4, 5.49, 42, 100, 9_000, 200_000)]
    ['–', '< 1 s', '5.5 s', '42 s', '1.7 min', '2.5 h', '2.3 d']
    """
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 1 else "< 1 s"
