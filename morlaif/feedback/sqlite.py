"""SQLite's errors as one line each: what it is, and what helps. A sound ledger is never advised to be moved away."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from morlaif.errors import Damaged, MachineError, UserError, of_system

T = TypeVar("T")
PATIENCE = 30.0  # seconds that a lock of another process is waited for
KEPT = "What is in it is kept."


class Connection(sqlite3.Connection):
    """A connection whose errors are of this project."""

    path: Path  # of its file

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self.cursor(Cursor).execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        return self.cursor(Cursor).executemany(*args)


class Cursor(sqlite3.Cursor):
    def execute(self, *args: Any) -> Any:
        return _speaking(self.connection, super().execute, *args)

    def executemany(self, *args: Any) -> Any:
        return _speaking(self.connection, super().executemany, *args)

    def fetchone(self) -> Any:
        return _speaking(self.connection, super().fetchone)

    def fetchmany(self, *args: Any) -> Any:
        return _speaking(self.connection, super().fetchmany, *args)

    def fetchall(self) -> Any:
        return _speaking(self.connection, super().fetchall)

    def __next__(self) -> Any:
        return _speaking(self.connection, super().__next__)


def connect(path: Path) -> Connection:
    """Open the database at `path`, or a new one.

    Raises:
        UserError, MachineError: it cannot be, as of each use of the connection.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise of_system(error, str(path.parent)) from None
    try:
        opened = sqlite3.connect(
            path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, factory=Connection
        )
    except sqlite3.Error as error:
        raise explain(error, path) from None
    opened.path = path
    return opened


def write_ahead(connection: Connection) -> None:
    """Log what is written beside the file, so that readers never wait.

    SQLite does not wait for another process that switches the same new file at this moment, but gives up at once.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except MachineError as error:
            code = getattr(error.__cause__, "sqlite_errorcode", 0)
            if code & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _speaking(connection: Any, work: Callable[..., T], *args: Any) -> T:
    try:
        return work(*args)
    except sqlite3.Error as error:
        _raise(error, connection.path)


def _raise(error: sqlite3.Error, path: Path) -> NoReturn:
    raise explain(error, path) from error


def explain(error: sqlite3.Error, path: Path) -> UserError | MachineError:
    """One line for an error of the database at `path`."""
    code = str(getattr(error, "sqlite_errorname", None) or "")
    reason = " ".join(str(error).split())
    if path.is_dir():
        return UserError(f"{path}: a folder is where the ledger's file would be. Name another store (paths.store).")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        others = ", ".join(_holders(path))
        who = f"open in {others}" if others else "held perhaps by a tool that has it open, or from another machine"
        return MachineError(
            f"{path}: the ledger is locked by another process for more than {PATIENCE:g} s ({who}). {KEPT} "
            "Close that one, then run the same command again."
        )
    if code == "SQLITE_FULL":
        return MachineError(
            f"{path}: the disk is full ({_free(path)} free), so that no answer can be written down. {KEPT} "
            "Free some space there, then run the same command again."
        )
    if code == "SQLITE_READONLY_DBMOVED":
        return MachineError(f"{path}: the ledger was moved or deleted while it was in use. Put it back, and run again.")
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return _unwritable(path, reason)
    if code == "SQLITE_PROTOCOL" or code.startswith(("SQLITE_IOERR_SHM", "SQLITE_IOERR_LOCK", "SQLITE_NOLFS")):
        return MachineError(
            f"{path}: this file system does not lock files as SQLite needs it ({reason}), as some network file systems "
            f"do not. {KEPT} Use a store on a local disk (paths.store); the file can be copied there."
        )
    if code.startswith("SQLITE_IOERR"):
        return MachineError(
            f"{path}: the disk or its file system failed ({reason}); see the system's log. {KEPT} "
            "Run the same command again when it works."
        )
    if code == "SQLITE_NOTADB":
        return UserError(
            f"{path}: no ledger: this file is no SQLite database, or its first bytes are damaged. It is left as it is. "
            "If it was a ledger, restore a copy of it; if it never was one, name another store (paths.store)."
        )
    if code.startswith("SQLITE_CORRUPT"):
        return damaged(path, reason)
    if "no such table" in reason or "no such column" in reason:
        return UserError(
            f"{path}: an SQLite database, but no ledger ({reason}). It is left as it is. "
            "Name another store (paths.store)."
        )
    return MachineError(f"{path}: the ledger cannot be used ({reason}{f', {code}' if code else ''}). {KEPT}")


def damaged(path: Path, reason: str) -> Damaged:
    """What to say of a file that is damaged in its middle; it is never advised to be thrown away."""
    new = path.with_name(f"{path.stem}.recovered{path.suffix}")
    return Damaged(
        f"{path}: the ledger is damaged ({reason}). It is left as it is, and most of it can be read: "
        f"`sqlite3 '{path}' .recover | sqlite3 '{new}'`, then put the new file in its place and keep the old one."
    )


def _unwritable(path: Path, reason: str) -> UserError | MachineError:
    beside = "(SQLite keeps two more files beside the ledger)"
    try:
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return of_system(OSError(errno.EROFS, ""), str(path))
    except OSError:
        pass
    for place, needed, what in ((path, os.R_OK | os.W_OK, "file"), (path.parent, os.W_OK | os.X_OK, "folder")):
        if place.exists() and not os.access(place, needed):
            return UserError(
                f"{place}: this user may not write to the ledger's {what} {beside}. {KEPT} "
                "Give the right to (chmod u+w, or its owner), or name another store (paths.store)."
            )
    return UserError(
        f"{path}: the ledger cannot be opened for writing ({reason}). {KEPT} See the owner and mode of the file and "
        f"its folder {beside}, or name another store (paths.store)."
    )


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 2**20:,.0f} MB"
    except OSError:
        return "nothing"


def _holders(path: Path, most: int = 3) -> list[str]:
    """Other processes of this machine that have the file open, as far as this user can see."""
    try:
        wanted = path.resolve()
        processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []
    found: list[str] = []
    for process in processes:
        try:
            if int(process.name) == os.getpid() or len(found) == most:
                continue
            if any(Path(os.readlink(link)) == wanted for link in (process / "fd").iterdir()):
                name = (process / "comm").read_text().strip()
                found.append(f"process {process.name} ({name})")
        except OSError:
            continue
    return found
