"""Whether the folders that a config names can be what they are to be, found out without making them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from morlaif.errors import MachineError, of_system

NO_ROOM = 1 << 20  # bytes; on a disk that has less, what a library was writing did not fit


def place_problems(key: str, path: Path) -> Iterator[str]:
    """One line if `path`, given by `key`, is no folder that this user can write, nor can become one."""
    try:
        if problem := _problem(path):
            yield f"{key}={path}: {problem}"
    except OSError as error:
        yield str(of_system(error, f"{key}={path}"))
    except ValueError as error:
        yield f"{key}={str(path)!r}: {error}; give the path of a folder"


def _problem(path: Path) -> str | None:
    there = _nearest(path)
    at = "" if there == path else f" in {there}"
    try:
        mode = there.stat().st_mode
    except FileNotFoundError:
        return f"{there} is a symbolic link to what is not there; make that, or name another place"
    if not stat.S_ISDIR(mode):
        return "a file is in the way; name a folder" if there == path else f"{there} is a file; name a folder"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"the file system is read-only{at}; name another place"
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return f"this user may not write{at or ' there'}; name another place, or change its owner or mode"
    return None


def _nearest(path: Path) -> Path:
    """`path`, or the nearest above it that there is."""
    for there in (path, *path.parents):
        try:
            there.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return there
    return path


def full_disk(key: str, path: Path) -> MachineError | None:
    """The error of a disk that has no room for `path`."""
    found = os.statvfs(_nearest(path))
    free = found.f_bavail * found.f_frsize
    if found.f_blocks and free < NO_ROOM:
        return MachineError(f"{key}={path}: the disk is full ({free:,} bytes are free); free some space there")
    return None
