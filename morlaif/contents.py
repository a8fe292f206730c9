"""Hashes of files' contents, remembered by path, size, times and inode: 140 GB are read once, not at each start."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from morlaif.errors import UserError, of_system

MEMORY = "hashes.jsonl"  # in the store
REMEMBERED = 8 << 20  # bytes; a smaller file is read each time
CHUNK = 128 << 20  # bytes that one thread hashes at a stretch
REPORTED = 1 << 30  # bytes from which on reading is reported
_BLOCK = 4 << 20
_FRESH = 0.1  # seconds: within a tick of the clock two changes may bear the same time
_COARSE = 2.0  # the same where a file system keeps whole seconds

State = tuple[int, int, int, int]  # size, mtime and ctime in nanoseconds, inode
_read: dict[str, tuple[State, str]] = {}  # what this process has read, for stores that cannot be written


class Hashes:
    """SHA-256 of files; of one longer than `CHUNK`, of its chunks' hashes.

    A hash counts as long as size, both times and inode are those of the file that was read: whatever changes a byte
    changes its ctime, and nothing else may set that. The memory is a file of lines, each with a hash over itself: many
    processes may append to it, a damaged line is as if it had never been written, and where it cannot be written all is
    done without.
    """

    def __init__(self, store: Path | None, tell: Callable[[str], None] = lambda line: None) -> None:
        """`tell` is given a line before a long read."""
        self._memory = None if store is None else store / MEMORY
        self._tell = tell
        self._known: dict[str, tuple[State, str]] | None = None

    def of(self, files: Sequence[Path]) -> list[str]:
        """The hash of each file.

        Raises:
            UserError: one cannot be read, or is being written.
        """
        try:
            return self._of([file.resolve() for file in files])
        except OSError as error:
            raise of_system(error) from error

    def _of(self, files: list[Path]) -> list[str]:
        states = {file: _state(file) for file in files}
        found = {file: self._recall(file, state) for file, state in states.items() if state[0] >= REMEMBERED}
        unknown = [file for file in states if found.get(file) is None]
        size = sum(states[file][0] for file in unknown)
        if size >= REPORTED:
            self._tell(f"reading {size / 1e9:,.0f} GB once to know their content: {unknown[0].parent} …")
        started = time.time()
        read = dict(zip(unknown, _hash_all([(file, states[file][0]) for file in unknown]), strict=True))
        for file in unknown:
            if _state(file) != states[file]:
                raise UserError(f"{file}: changes while it is read; start again when it is whole")
        self._remember([(file, states[file], read[file]) for file in unknown if _settled(states[file], started)])
        return [read.get(file) or str(found[file]) for file in files]

    def _recall(self, file: Path, state: State) -> str | None:
        if self._known is None:
            self._known = dict(_lines(self._memory)) | _read
        known = self._known.get(str(file))
        return known[1] if known is not None and known[0] == state else None

    def _remember(self, made: Sequence[tuple[Path, State, str]]) -> None:
        made = [one for one in made if one[1][0] >= REMEMBERED]
        if not made:
            return
        _read.update((str(file), (state, digest)) for file, state, digest in made)
        self._known = None
        if self._memory is None:
            return
        rows = b"".join(b"\n" + _line(str(file), state, digest) for file, state, digest in made)
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            place = os.open(self._memory, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(place, rows + b"\n")  # one write: lines of several processes stay whole
            finally:
                os.close(place)
        except OSError:
            return  # a store that may not be written: they are read again next time


def _state(file: Path) -> State:
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def _settled(state: State, read_at: float) -> bool:
    """Whether a change after the file was read could not bear the time that it had then."""
    whole = state[1] % 1_000_000_000 == 0 and state[2] % 1_000_000_000 == 0
    return state[2] / 1e9 < read_at - (_COARSE if whole else _FRESH)


def _hash_all(files: Sequence[tuple[Path, int]]) -> list[str]:
    """All chunks of all files, several at a time."""
    parts = [(file, start) for file, size in files for start in range(0, max(1, size), CHUNK)]
    if len(parts) < 2:
        hashes = [_hash_part(*part) for part in parts]
    else:
        with ThreadPoolExecutor(min(16, len(parts), os.cpu_count() or 1)) as threads:
            hashes = list(threads.map(lambda part: _hash_part(*part), parts))
    left = iter(hashes)
    made = []
    for _, size in files:
        own = [next(left) for _ in range(0, max(1, size), CHUNK)]
        made.append(own[0].hex() if len(own) == 1 else hashlib.sha256(b"chunks" + b"".join(own)).hexdigest())
    return made


def _hash_part(file: Path, start: int) -> bytes:
    digest, left = hashlib.sha256(), CHUNK
    with file.open("rb", buffering=0) as stream:
        stream.seek(start)
        while left and (block := stream.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _line(file: str, state: State, digest: str) -> bytes:
    row = json.dumps([file, *state, digest])
    return json.dumps([row, _check(row)]).encode()


def _check(row: str) -> str:
    return hashlib.sha256(row.encode()).hexdigest()[:16]


def _lines(memory: Path | None) -> Iterator[tuple[str, tuple[State, str]]]:
    """What the lines say that are whole; the last of a file's counts."""
    try:
        raw = b"" if memory is None else memory.read_bytes()
    except OSError:
        return
    for line in raw.split(b"\n"):
        try:
            row, check = json.loads(line)
            if check != _check(row):
                continue
            file, size, mtime, ctime, inode, digest = json.loads(row)
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        yield file, ((size, mtime, ctime, inode), digest)
