"""Many verdicts as columns, and the pairs they belong to: read, measured and written in chunks, never all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from morlaif.data.arrow import batch_rows, batches_of, save_batches, schema_of, split_files
from morlaif.data.records import PAIRS, Pair
from morlaif.feedback.records import VERDICT_COLUMNS, VERDICTS, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]
ROWS = 10_000  # pairs, or verdicts, held at once
NUMBERS = ("p_first", "bias", "d_forward", "d_backward", "input_tokens", "output_tokens", "usd")


@dataclass(frozen=True)
class Verdicts:
    """N verdicts of one judge. Where there is no number there is NaN."""

    judge: str
    pair_id: Sequence[str]  # N
    valid: NDArray[np.bool_]  # (N,)
    reason: Sequence[str | None]  # N, why a verdict is invalid
    p_first: Array  # (N,), as are the rest; see `Verdict`
    bias: Array
    d_forward: Array
    d_backward: Array
    input_tokens: Array
    output_tokens: Array
    usd: Array

    def __len__(self) -> int:
        return len(self.pair_id)

    @classmethod
    def of(cls, judge: str, verdicts: Sequence[Verdict]) -> Verdicts:
        numbers = {name: np.array([getattr(v, name) for v in verdicts], dtype=float) for name in NUMBERS}
        valid = np.array([v.valid for v in verdicts], dtype=bool)
        return cls(judge, [v.pair_id for v in verdicts], valid, [v.reason for v in verdicts], **numbers)

    def __iter__(self) -> Iterator[Verdict]:
        columns = [[None if x != x else x for x in getattr(self, name).tolist()] for name in NUMBERS]
        rows = zip(self.pair_id, self.valid.tolist(), self.reason, *columns, strict=True)
        for pair_id, valid, reason, p, bias, forward, backward, *cost in rows:
            yield Verdict(pair_id, p, bias, valid, self.judge, forward, backward, reason, *cost)

    @classmethod
    def none(cls, judge: str, pair_ids: Sequence[str]) -> Verdicts:
        """No verdict on any of `pair_ids`."""
        return cls.of_rows(judge, pair_ids, [(None,) * len(NUMBERS)] * len(pair_ids))

    @classmethod
    def of_rows(cls, judge: str, pair_ids: Sequence[str], rows: Sequence[tuple[float | None, ...]]) -> Verdicts:
        """From the NUMBERS of each pair, as a ledger gives them: all None where there is no verdict."""
        columns = zip(*rows, strict=True) if rows else [()] * len(NUMBERS)
        numbers = {name: np.array(column, dtype=float) for name, column in zip(NUMBERS, columns, strict=True)}
        return cls(judge, pair_ids, ~np.isnan(numbers["p_first"]), [None] * len(pair_ids), **numbers)

    def put(self, rows: Sequence[int], others: Verdicts) -> Verdicts:
        """These verdicts with `others` in the place of `rows`."""
        columns = {}
        for name in ("valid", *NUMBERS):
            columns[name] = getattr(self, name).copy()
            columns[name][list(rows)] = getattr(others, name)
        reason = list(self.reason)
        for row, why in zip(rows, others.reason, strict=True):
            reason[row] = why
        return replace(self, reason=reason, **columns)

    def batch(self) -> pa.RecordBatch:
        """As the artifact of `feedback` has it; what is missing is null."""
        import pyarrow as pa

        def column(name: str) -> pa.Array:
            if name == "judge":
                return pa.repeat(self.judge, len(self))
            if name in NUMBERS:
                return pa.array(getattr(self, name), from_pandas=True)
            return pa.array(getattr(self, name), type=schema.field(name).type)

        schema = schema_of(VERDICT_COLUMNS)
        return pa.record_batch([column(name) for name in VERDICT_COLUMNS], schema=schema)


def averaged(parts: Sequence[Verdicts]) -> Verdicts:
    """Verdicts on the same N pairs under several principles, as one a pair.

    The mean of the valid ones; invalid if there are none, for the first reason. Costs add up.
    """
    if len(parts) == 1:
        return parts[0]
    valid = np.stack([part.valid for part in parts])  # (K, N)
    count = valid.sum(axis=0)
    numbers = {}
    for name in ("p_first", "bias", "d_forward", "d_backward"):
        values = np.where(valid, np.stack([getattr(part, name) for part in parts]), 0.0)  # a valid NaN stays NaN
        with np.errstate(invalid="ignore"):
            numbers[name] = np.where(count > 0, values.sum(axis=0) / count, getattr(parts[0], name))
    for name in ("input_tokens", "output_tokens", "usd"):
        numbers[name] = sum(getattr(part, name) for part in parts)
    reason = [None if n else why for n, why in zip(count.tolist(), parts[0].reason, strict=True)]
    return replace(parts[0], valid=count > 0, reason=reason, **numbers)


def with_people(part: Verdicts, human: Array) -> Verdicts:
    """A judge's verdicts and those of people, `human` (N,), on the same pairs, as one a pair: the mean of both.

    The soft loss is linear in its label: on pairs that both have labelled, its value and gradient are half of what
    they are on both sets of labels side by side. Where one of them has no verdict, the other's stands.
    """
    nothing, free = np.full(len(part), np.nan), np.zeros(len(part))
    people = replace(
        Verdicts.none("human", part.pair_id), valid=~np.isnan(human), p_first=human, bias=nothing, d_forward=nothing,
        d_backward=nothing, input_tokens=free, output_tokens=free, usd=free,
    )  # fmt: skip
    both = averaged([part, people])
    return replace(  # people see no order
        both, judge=f"{part.judge} and people", bias=part.bias, d_forward=part.d_forward, d_backward=part.d_backward
    )


class Chunk:
    """Some pairs in a row. What most callers want of them are columns; a pair itself is made when it is asked for."""

    def __init__(self, ids: list[str], human: Array, lengths: Array, pair: Callable[[int], Pair]) -> None:
        self.ids = ids
        self.human = human  # (N,) human probability that the first is better; NaN: unknown
        self.lengths = lengths  # (N, 2) characters of both responses
        self.pair = pair

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Pair]:
        return (self.pair(i) for i in range(len(self)))

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Chunk:
        human = np.array([pair.human for pair in pairs], dtype=float)
        lengths = np.array([(len(pair.first), len(pair.second)) for pair in pairs], dtype=float).reshape(-1, 2)
        return cls([pair.id for pair in pairs], human, lengths, pairs.__getitem__)

    @classmethod
    def of_arrow(cls, batch: pa.RecordBatch) -> Chunk:
        import pyarrow.compute as pc

        def pair(i: int) -> Pair:
            return Pair(**{f.name: batch.column(f.name)[i].as_py() for f in fields(Pair)})

        human = batch.column("human").to_numpy(zero_copy_only=False).astype(float)
        lengths = np.stack([pc.utf8_length(batch.column(name)).to_numpy() for name in ("first", "second")], axis=1)
        return cls(batch.column("id").to_pylist(), human, lengths.astype(float), pair)


class PairChunks:
    """The pairs of one split, in their order: on disk and read in chunks, or a list."""

    def __init__(self, count: int, chunks: Callable[[], Iterable[Chunk]]) -> None:
        self._count, self.chunks = count, chunks  # each call of `chunks` begins anew

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> PairChunks:
        starts = range(0, len(pairs), ROWS)
        return cls(len(pairs), lambda: (Chunk.of(pairs[i : i + ROWS]) for i in starts))

    @classmethod
    def open(cls, folder: Path, split: str) -> PairChunks:
        """The pairs of `split` from the artifact of `respond`.

        Raises:
            UserError: there is no such split.
        """
        home = Path(folder) / PAIRS / split
        return cls(arrow_rows(home), lambda: map(Chunk.of_arrow, arrow_batches(home)))

    @classmethod
    def chain(cls, tables: Sequence[PairChunks]) -> PairChunks:
        """One table after another; no chunk holds pairs of two."""
        return cls(sum(map(len, tables)), lambda: (chunk for table in tables for chunk in table.chunks()))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Pair]:
        return (pair for chunk in self.chunks() for pair in chunk)


def arrow_rows(split: Path) -> int:
    """How many rows the split of a dataset in the folder `split` has."""
    return batch_rows(split_files(split.parent, split.name))


def arrow_batches(split: Path) -> Iterator[pa.RecordBatch]:
    """Its rows, ROWS at a time."""
    return batches_of(split_files(split.parent, split.name), ROWS)


def write_verdicts(folder: Path, splits: Mapping[str, Iterable[Verdicts]]) -> None:
    """Write the verdicts of a `feedback` artifact whose folder is `folder`, each chunk before the next one is made."""
    parts = {split: (part.batch() for part in parts) for split, parts in splits.items()}
    save_batches(Path(folder) / VERDICTS, parts, VERDICT_COLUMNS)
