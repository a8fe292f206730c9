"""Locks between processes: files that the kernel holds for whoever has them, and lets go of when that process ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(path: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of `path`; where another process has it, say which to `on_wait`, once, and wait.

    Raises:
        OSError: the file cannot be made or locked.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait(_holder(path))
        lock.acquire()
    try:
        # For people alone: the kernel knows who has it. A file system without locks has filelock write the file.
        if type(lock) is FileLock:
            with suppress(OSError):
                path.write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        written = path.read_text(errors="replace").strip()
    except OSError:
        written = ""
    return written if written.startswith("process ") and written.isprintable() else "another process"


def is_held(path: Path) -> bool:
    """Whether a process has the lock of `path` at this moment."""
    import fcntl

    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
