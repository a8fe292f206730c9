"""The errors that a user can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the config, the data or the environment: one line that says what, where, and what would be right.

    The command line prints the line alone, without a traceback, and exits with 2.
    """


class ProcessFailed(Exception):
    """Another process that worked for this one failed: one line that says which and how, and what it left to read."""

    def __init__(self, line: str, traceback: str):
        super().__init__(line)
        self.traceback = traceback


def suggest(wrong: str, right: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean 'x'?` for the nearest of `right`, or the empty string when none is near."""
    near = difflib.get_close_matches(wrong, list(right), n=1, cutoff=cutoff)
    return f" Did you mean '{near[0]}'?" if near else ""


def describe(error: BaseException) -> str:
    """One line for any error: a user's mistake, or another process's failure, in its own words, else the type and the
    first line of its message.
    """
    if isinstance(error, UserError | ProcessFailed):
        return str(error)
    message = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {message}"
