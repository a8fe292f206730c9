"""When training writes a checkpoint: every so many steps, and sooner where steps are slow."""

from __future__ import annotations

import time

from morlaif import ranks

LONGEST = 300.0  # seconds of training that a kill may cost, beyond the step at hand


class Pace:
    """Asked after each step. On several ranks steps alone count, since their clocks differ."""

    def __init__(self, every: int | None) -> None:
        """`every`: steps; None or 0: no checkpoints."""
        self.every, self.last = every or 0, time.monotonic()

    def due(self, step: int) -> bool:
        if not self.every:
            return False
        slow = ranks.count() == 1 and time.monotonic() - self.last >= LONGEST
        if step % self.every and not slow:
            return False
        self.last = time.monotonic()
        return True
