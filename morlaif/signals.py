"""How a process that was asked to end, by SIGTERM, SIGINT (Ctrl-C) or SIGHUP, does so in order."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KEPT = "finished units, verdicts and checkpoints are kept; the same command goes on from them"


class Ended(SystemExit):
    """Raised in the main thread where it was; what is being built is let go of. Its code is 128 and the signal's."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.status = 128 + number


def end_in_order() -> None:
    """Take the signals of this process; one that is ignored, as under `nohup`, stays so."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def say_ended(how: str) -> None:
    """The one line, at once: what is on its way may take its time to come home."""
    with suppress(OSError):  # nobody is left to read it
        os.write(2, f"morlaif: {how}; {KEPT}\n".encode())


def _end(number: int, frame: FrameType | None) -> None:
    for other in ENDING:
        if signal.getsignal(other) == _end:
            signal.signal(other, _at_once)
    say_ended(f"ended by {signal.Signals(number).name}")
    raise Ended(number)


def _at_once(number: int, frame: FrameType | None) -> None:
    """Asked again: children end as the kernel sees that this process has."""
    os._exit(128 + number)
