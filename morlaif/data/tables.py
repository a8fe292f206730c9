"""Rows of files that are no JSON: Parquet, Arrow and CSV, read some at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from morlaif.errors import UserError
from morlaif.files import LARGEST, decode

Row = dict[str, Any]
Reader = Callable[[Path, str], Iterator[tuple[str, Row]]]
BATCH = 200  # rows that are decoded together
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def parquet_rows(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row of a Parquet file.

    Raises:
        UserError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    place += 1
                    yield f"{name}, row {place}", row
    except (pa.ArrowException, OSError) as error:
        raise UserError(_damaged(name, place, "Parquet", error)) from None


def arrow_rows(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """The same of an Arrow file, in the form of a file or (as `datasets` writes them) of a stream."""
    import pyarrow as pa

    place = 0
    try:
        with pa.OSFile(str(path)) as source:
            for batch in _batches(source):
                for start in range(0, batch.num_rows, BATCH):
                    for row in batch.slice(start, BATCH).to_pylist():
                        place += 1
                        yield f"{name}, row {place}", row
    except (pa.ArrowException, OSError) as error:
        raise UserError(_damaged(name, place, "Arrow", error)) from None


def _batches(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    whole = source.read(6) == b"ARROW1"
    source.seek(0)
    if not whole:
        yield from pa.ipc.open_stream(source)
        return
    file = pa.ipc.open_file(source)
    yield from (file.get_batch(i) for i in range(file.num_record_batches))


def _damaged(name: str, place: int, kind: str, error: Exception) -> str:
    why = " ".join(str(error).split())[:120]
    return f"{name}: a damaged {kind} file, after row {place} ({why}); fetch it again"


def csv_rows(stream: io.BufferedIOBase | IO[bytes], name: str, delimiter: str) -> Iterator[tuple[str, Row]]:
    """The same of a CSV file whose first line names the columns. An empty cell is null; every other is a text.

    Raises:
        UserError: a line is no UTF-8, or a row has more or fewer cells than there are columns.
    """
    line = 0

    def lines() -> Iterator[str]:
        nonlocal line
        for raw in iter(lambda: stream.readline(LARGEST + 1), b""):
            line += 1
            if len(raw) > LARGEST:
                raise UserError(f"{name}, line {line}: longer than {LARGEST >> 20:,} MB")
            raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
            yield decode(raw, f"{name}, line {line}", "a CSV file").replace("\0", "")

    before = csv.field_size_limit(LARGEST >> 1)  # of the whole process, so only as long as this reads
    rows = csv.reader(lines(), delimiter=delimiter, strict=True)
    begun = 1
    columns: list[str] | None = None
    try:
        for cells in rows:
            place, begun = f"{name}, line {begun}", line + 1
            if not cells:
                continue
            if columns is None:
                columns = _columns(cells, place)
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{place}: {len(cells)} cells, and the first line names {len(columns)} columns; put texts that "
                    f"hold a {delimiter!r}, a quote or a line break in quotes"
                )
            yield place, {column: cell or None for column, cell in zip(columns, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"{name}, line {begun}: no CSV ({error}); a quote inside of a text is written twice") from None
    finally:
        csv.field_size_limit(before)


def _columns(cells: list[str], place: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if "" in columns or len(set(columns)) < len(columns):
        raise UserError(f"{place}: the first line of a CSV file must name each column, none of them twice")
    return columns
