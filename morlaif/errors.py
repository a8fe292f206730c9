"""The errors that end in one line: a user's mistake, a machine's failure, another process's end."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the config, the data or the environment: one line that says what, where, and what would be right.

    The command line prints the line alone, without a traceback, and exits with 2.
    """


class BudgetSpent(UserError):
    """The money that the config allows is spent."""


class MachineError(Exception):
    """What the machine failed at, whatever the command was: a full disk, a server that is gone. One line that says
    what, where, and what would help.

    The command line prints the line alone, without a traceback, and exits with 1.
    """


class Damaged(MachineError):
    """A file that morlaif itself wrote is not as it was written: half copied, changed, or partly gone."""


class ProcessFailed(Exception):
    """Another process that worked for this one failed: one line that says which and how, and what it left to read.

    `asked`: it was asked to end, which is no fault.
    """

    def __init__(self, line: str, traceback: str, asked: bool = False):
        super().__init__(line)
        self.traceback, self.asked = traceback, asked


# What a change of the command would seldom mend.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_LONGEST = 400  # characters of a place that are shown
_FULL = "free some space there, or name another place"
_ADVICE = {
    errno.ENOSPC: f"the disk is full; {_FULL}",
    errno.EDQUOT: f"this user's quota is spent; {_FULL}",
    errno.EROFS: "the file system is read-only; name another place",
    errno.EACCES: "this user may not write there; name another place, or change its owner or mode",
    errno.EPERM: "this user may not do that there; name another place, or change its owner or mode",
    errno.EEXIST: "a file is in the way; name a folder",
    errno.EISDIR: "a folder is in the way; remove it, or move it away",
    errno.ENOTDIR: "a part of the path is a file; name a folder",
    errno.ELOOP: "its symbolic links go in a circle; name another place",
    errno.ENAMETOOLONG: "a name of more than 255 bytes, or a path of more than 4,095; give a shorter one",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.EIO: "the disk failed; see the system's log",
}


def of_system(error: OSError, where: str = "") -> UserError | MachineError:
    """An error of the operating system as one line: a MachineError where no other command would help.

    Args:
        where: the key and value that named the place, or the place.
    """
    place = where or str(error.filename2 or error.filename or "")
    reason = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    if len(place) > _LONGEST:
        place = f"{place[: _LONGEST // 2]}…{place[-_LONGEST // 2 :]}"
    line = f"{place}: {reason}" if place else reason
    return MachineError(line) if error.errno in MACHINE else UserError(line)


def suggest(wrong: str, right: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean 'x'?` for the nearest of `right`, or the empty string when none is near."""
    near = difflib.get_close_matches(wrong, list(right), n=1, cutoff=cutoff)
    return f" Did you mean '{near[0]}'?" if near else ""


def describe(error: BaseException) -> str:
    """One line for any error: those of this file and of a full disk in their own words, else the type and the first
    line of its message.
    """
    if isinstance(error, UserError | MachineError | ProcessFailed):
        return str(error)
    if isinstance(error, OSError) and error.errno in MACHINE:
        return str(of_system(error))
    message = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {message}"
