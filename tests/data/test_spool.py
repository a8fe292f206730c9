"""Sequences on disk, and rows that are written and read a batch at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from morlaif.data import arrow
from morlaif.data.arrow import Rows, batch_rows, batches_of, save_splits, split_files
from morlaif.data.spool import Chained, Mapped, Picked, json_spool, token_spool


def test_a_spool_is_a_sequence(tmp_path):
    spool = json_spool(tmp_path, ["a☂", {"b": [1, None]}, ""])
    spool.append([2])
    assert len(spool) == 4 and spool == ["a☂", {"b": [1, None]}, "", [2]] != spool[:3]
    assert spool[-1] == [2] and spool[1:3] == [{"b": [1, None]}, ""] and spool[:1] == ["a☂"]
    assert os.listdir(tmp_path) == [], "its file has no name"
    with pytest.raises(IndexError):
        spool[4]
    spool.append("after a read")
    assert spool[4] == "after a read" and not json_spool(tmp_path)


def test_spools_larger_than_a_buffer_keep_their_items(tmp_path, monkeypatch):
    monkeypatch.setattr("morlaif.data.spool._BUFFER", 16)
    rows = [list(range(n, 2 * n)) for n in range(50)]
    spool = token_spool(tmp_path, rows)
    assert spool == rows and [spool[i] for i in (49, 0, 7)] == [rows[49], [], rows[7]]


def test_views_of_sequences():
    picked = Picked("abcdef", [5, 0, 0])
    assert list(picked) == ["f", "a", "a"] and picked[0] == "f"
    assert Mapped(str.upper, picked) == ["F", "A", "A"]
    both = Chained(picked, "xy")
    assert list(both) == ["f", "a", "a", "x", "y"] and both[3] == "x" and both[-1] == "y"


@dataclass
class Row:
    name: str
    turns: list[dict[str, str]]
    score: float | None = None
    extra: int = 3  # no column


COLUMNS = {"name": "string", "turns": [{"role": "string"}], "score": "float64"}


def test_rows_come_back_a_batch_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "BATCH", 3)
    rows = [Row(f"r{i}", [{"role": "user"}] * (i % 3), None if i % 2 else i / 2) for i in range(20)]
    save_splits(tmp_path, {"a": iter(rows), "b": []}, COLUMNS)
    read = Rows(tmp_path, "a", Row)
    assert read == rows and [read[i] for i in (19, 0, 7, 8)] == [rows[i] for i in (19, 0, 7, 8)]
    assert Rows(tmp_path, "b", Row) == [] and len(Rows(tmp_path, "b", Row)) == 0
    files = split_files(tmp_path, "a")
    assert batch_rows(files) == 20 and [batch.num_rows for batch in batches_of(files, 8)] == [8, 8, 4]
    names = [batch.column("name").to_pylist() for batch in batches_of(files, 8)]
    assert [name for part in names for name in part] == [row.name for row in rows]


def test_datasets_reads_what_was_written(tmp_path):
    from datasets import Dataset, load_from_disk

    save_splits(tmp_path / "new", {"a": [Row("x", [{"role": "user"}], 0.5)], "b": []}, COLUMNS)
    found = load_from_disk(str(tmp_path / "new" / "a"))
    assert found.to_list() == [{"name": "x", "turns": [{"role": "user"}], "score": 0.5}]
    Dataset.from_list(found.to_list() * 2).save_to_disk(str(tmp_path / "old" / "a"))
    (tmp_path / "old" / "dataset_dict.json").write_text('{"splits": ["a"]}')
    assert [row.name for row in Rows(tmp_path / "old", "a", Row)] == ["x", "x"], "and the other way round"
