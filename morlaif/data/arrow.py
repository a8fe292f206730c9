"""Rows on disk as `datasets` lays them out (Arrow), written and read some at a time.

What this takes of memory does not grow with the rows: none is held for longer than it is needed, and no file is mapped
(pages that were looked at would count as memory of ours).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from morlaif.data.spool import Lazy
from morlaif.errors import UserError, suggest

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
BATCH = 200  # rows that are written, and read back, together
KEPT = 4  # batches of a split that stay in memory when rows are asked for one by one
Columns = Mapping[str, Any]  # each column's type: its name in `datasets`, [of one item], {of each field}


def save_splits(folder: Path, splits: Mapping[str, Iterable[Any]], columns: Columns) -> None:
    """Write splits of dataclass rows as one `DatasetDict` in `folder`; an empty one keeps its form."""
    import pyarrow as pa

    def batches(rows: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        source = iter(rows)
        while part := list(islice(source, BATCH)):
            yield pa.record_batch(
                [pa.array([getattr(row, name) for row in part], schema.field(name).type) for name in columns],
                schema=schema,
            )

    schema = schema_of(columns)
    save_batches(folder, {split: batches(rows) for split, rows in splits.items()}, columns)


def save_batches(folder: Path, splits: Mapping[str, Iterable[pa.RecordBatch]], columns: Columns) -> None:
    """Write splits of record batches as one `DatasetDict` in `folder`, each batch before the next one is made.

    `datasets` writes the frame, of an empty dataset; the rows are then put in its place for them.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    features = _features(columns)
    empty: dict[str, list[Any]] = {name: [] for name in columns}
    frame = {split: Dataset.from_dict(empty, features=features) for split in splits}
    DatasetDict(frame).save_to_disk(str(folder))
    for split, batches in splits.items():
        rows, file = 0, folder / split / "data-00000-of-00001.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema_of(columns)) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        state = folder / split / "state.json"
        with file.open("rb") as written:  # a fingerprint of its own: caches go by it
            fingerprint = hashlib.file_digest(written, "sha256").hexdigest()[:16]
        files = [{"filename": file.name}] if rows else []  # as `datasets` has it
        known = json.loads(state.read_text()) | {"_data_files": files, "_fingerprint": fingerprint}
        state.write_text(json.dumps(known, indent=2, sort_keys=True))


def _features(columns: Columns) -> Any:
    from datasets import Features, List, Value

    def feature(kind: Any) -> Any:
        if isinstance(kind, str):
            return Value(kind)
        if isinstance(kind, list):
            return List(feature(kind[0]))
        return {key: feature(value) for key, value in kind.items()}

    return Features({name: feature(kind) for name, kind in columns.items()})


def schema_of(columns: Columns) -> pa.Schema:
    """The columns as Arrow has them."""
    import pyarrow as pa

    def arrow(kind: Any) -> pa.DataType:
        if isinstance(kind, str):
            return pa.type_for_alias(kind)
        if isinstance(kind, list):
            return pa.list_(arrow(kind[0]))
        return pa.struct({key: arrow(value) for key, value in kind.items()})

    return pa.schema({name: arrow(kind) for name, kind in columns.items()})


class _Batch(NamedTuple):
    file: Path
    start: int  # bytes
    size: int
    rows: int


class Rows(Lazy[T]):
    """The rows of one split that `save_splits` wrote, each made of its columns when it is asked for."""

    def __init__(self, folder: Path, split: str, make: Callable[..., T]) -> None:
        """`make`: a dataclass, whose fields are read.

        Raises:
            UserError: there is no such split.
        """
        self._files = split_files(folder, split)
        self._make, self._names = make, [field.name for field in fields(make)]  # type: ignore[arg-type]
        self._schema, self._batches = _index(self._files)
        self._ends = np.cumsum([batch.rows for batch in self._batches], dtype=np.int64)
        self._read: OrderedDict[int, list[T]] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _item(self, index: int) -> T:
        at = int(np.searchsorted(self._ends, index, side="right"))
        if at in self._read:
            self._read.move_to_end(at)
        else:
            self._read[at] = self._rows(self._batch(at))
            if len(self._read) > KEPT:
                self._read.popitem(last=False)
        return self._read[at][index - int(self._ends[at])]

    def __iter__(self) -> Iterator[T]:
        for at in range(len(self._batches)):
            yield from self._rows(self._batch(at))

    def _batch(self, at: int) -> pa.RecordBatch:
        import pyarrow as pa

        batch = self._batches[at]
        with batch.file.open("rb") as stream:
            stream.seek(batch.start)
            message = pa.ipc.read_message(stream.read(batch.size))
        return pa.ipc.read_record_batch(message, self._schema)

    def _rows(self, batch: pa.RecordBatch) -> list[T]:
        columns = {name: batch.column(name).to_pylist() for name in self._names if name in batch.schema.names}
        return [self._make(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of one split, in their order; none where it has no rows.

    Raises:
        UserError: there is no such split.
    """
    try:
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
    except FileNotFoundError:
        raise UserError(f"{folder}: no dataset here (no dataset_dict.json)") from None
    if split not in splits:
        raise UserError(f"{folder}: no split '{split}', only {', '.join(splits)}.{suggest(split, splits)}")
    state = json.loads((folder / split / "state.json").read_text())
    return [folder / split / item["filename"] for item in state["_data_files"]]


def _index(files: Sequence[Path]) -> tuple[pa.Schema | None, list[_Batch]]:
    """Where each record batch lies."""
    import pyarrow as pa

    schema, batches = None, []
    for file in files:
        with pa.OSFile(str(file)) as source:
            schema = pa.ipc.read_schema(source)
            start = source.tell()
            while (message := _next(source)) is not None:
                rows = pa.ipc.read_record_batch(message, schema).num_rows
                batches.append(_Batch(file, start, source.tell() - start, rows))
                start = source.tell()
    return schema, batches


def _next(source: pa.NativeFile) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.read_message(source)
    except EOFError:
        return None


def batch_rows(files: Sequence[Path]) -> int:
    """How many rows the files of a split have."""
    return sum(batch.rows for batch in _index(files)[1])


def batches_of(files: Sequence[Path], most: int) -> Iterator[pa.RecordBatch]:
    """Their rows in batches of `most`, of which each but the last is full."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    for file in files:
        with pa.OSFile(str(file)) as source:
            for batch in pa.ipc.open_stream(source):
                held.append(batch)
                while sum(part.num_rows for part in held) >= most:
                    whole = pa.Table.from_batches(held).combine_chunks().to_batches()[0]
                    yield whole.slice(0, most)
                    held = [whole.slice(most)] if whole.num_rows > most else []
    if held:
        yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]
