"""Sequences that lie on disk, or are made when they are asked for: what they take of memory is some bytes a row."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
U = TypeVar("U")
_BUFFER = 1 << 20  # bytes that are gathered before they are written


class Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for. A slice is a list; equal to whatever has equal items."""

    def _item(self, index: int) -> T:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"{index} of {len(self)}")
        return self._item(at)

    def __iter__(self) -> Iterator[T]:
        return (self._item(i) for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Sequence[T]) -> list[T]:
        return [*self, *other]


class Spool(Lazy[T]):
    """Items in a file without a name, which is gone with the last reference to them."""

    def __init__(
        self, pack: Callable[[T], bytes], unpack: Callable[[bytes], T], folder: Path | None = None,
        items: Iterable[T] = (),
    ) -> None:  # fmt: skip
        """`folder`: where the file lies, made where it is missing; None: where temporary files lie, which on some
        machines is memory."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._pack, self._unpack = pack, unpack
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed with the last reference
        self._ends = array("q", [0])  # of each item, in bytes
        self._pending = bytearray()
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        packed = self._pack(item)
        self._pending += packed
        self._ends.append(self._ends[-1] + len(packed))
        if len(self._pending) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        left = memoryview(bytes(self._pending))
        while left:
            left = left[self._file.write(left) :]
        self._pending.clear()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _item(self, index: int) -> T:
        if self._pending:
            self._flush()
        start, end = self._ends[index], self._ends[index + 1]
        return self._unpack(os.pread(self._file.fileno(), end - start, start))


class Picked(Lazy[T]):
    """Some items of a sequence, in an order of their own."""

    def __init__(self, items: Sequence[T], which: Sequence[int]) -> None:
        self._items, self._which = items, array("q", which)

    def __len__(self) -> int:
        return len(self._which)

    def _item(self, index: int) -> T:
        return self._items[self._which[index]]


class Mapped(Lazy[U], Generic[T, U]):
    """What a function makes of each item of a sequence, each time that it is asked for."""

    def __init__(self, function: Callable[[T], U], items: Sequence[T]) -> None:
        self._function, self._items = function, items

    def __len__(self) -> int:
        return len(self._items)

    def _item(self, index: int) -> U:
        return self._function(self._items[index])

    def __iter__(self) -> Iterator[U]:
        return map(self._function, self._items)


class Chained(Lazy[T]):
    """One sequence after another."""

    def __init__(self, *parts: Sequence[T]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def _item(self, index: int) -> T:
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


def json_spool(folder: Path | None = None, items: Iterable[Any] = ()) -> Spool[Any]:
    """Of what JSON can hold."""
    return Spool(as_json, of_json, folder, items)


_JSON = json.JSONEncoder(ensure_ascii=False)


def as_json(item: Any) -> bytes:
    return _JSON.encode(item).encode()


def of_json(raw: bytes) -> Any:
    return json.loads(raw.decode())


def token_spool(folder: Path | None = None, items: Iterable[list[int]] = ()) -> Spool[list[int]]:
    """Of token ids: four bytes each."""
    return Spool(packed, unpacked, folder, items)


def packed(ids: Iterable[int]) -> bytes:
    """Integers from 0 to 2^32 - 1, four bytes each."""
    return array("I", ids).tobytes()


def unpacked(raw: bytes) -> list[int]:
    """What `packed` was given."""
    found = array("I")
    found.frombytes(raw)
    return found.tolist()
