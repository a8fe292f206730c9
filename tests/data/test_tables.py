"""Files that are no JSON lines: Parquet, Arrow, CSV, several at once, and arrays longer than what is read of them."""

from __future__ import annotations

import gzip
import json

import pytest

from morlaif.data import files
from morlaif.data.files import find_files, read_rows
from morlaif.errors import UserError

ROWS = [{"prompt": f"q{i} ☂ ", "chosen": "a\nb" if i % 2 else None, "n": i} for i in range(450)]


def rows_of(path):
    return [row for _, row in read_rows(path, "it")]


def test_parquet_and_arrow_are_read_like_lines(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        assert rows_of(tmp_path / name) == ROWS
        assert [place for place, _ in read_rows(tmp_path / name, "it")][::449] == ["it, row 1", "it, row 450"]
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match="it: a damaged Parquet file"):
        rows_of(cut)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv"])
def test_csv(tmp_path, ending):
    text = '\ufeffprompt,chosen,rejected\nq,"a, ""b""\nc",d\n\nr,,e\n'
    path = tmp_path / f"x.{ending}"
    raw = (text.replace("a, ", "a,\t").replace(",", "\t") if ending == "tsv" else text).encode()
    path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
    said = 'a\t\t"b"\nc' if ending == "tsv" else 'a, "b"\nc'
    assert list(read_rows(path, "it")) == [
        ("it, line 2", {"prompt": "q", "chosen": said, "rejected": "d"}),
        ("it, line 5", {"prompt": "r", "chosen": None, "rejected": "e"}),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 cells, and the first line names 2 columns"),
        ("a,a\n", "line 1: the first line of a CSV file must name each column"),
        ('a,b\n"1,2\n', "line 2: no CSV"),
        (b"a,b\n1,\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_bad_csv_file_is_named_by_its_line(tmp_path, text, line):
    path = tmp_path / "x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"it, {line}"):
        rows_of(path)


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_may_be_longer_than_what_is_read_of_it(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(files, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    some = [*ROWS[:30], {"deep": [{"a": '\u2028\\"]}{[', "b": [1.5e3, -2, True, None]}]}]
    text = json.dumps(some, indent=indent, ensure_ascii=False)
    path.write_text("\n \n" + text + "\n", encoding="utf-8")
    assert rows_of(path) == some
    last = next(reversed(list(read_rows(path, "it"))))[0]
    assert last == f"it, line {3 + text[: text.rindex('{', 0, text.index('deep'))].count(chr(10))} (item 31)"
    path.write_text("[" + text[1:-1] + ", 3]", encoding="utf-8")
    with pytest.raises(UserError, match=r"\(item 32\): holds a number where an object should be"):
        rows_of(path)
    path.write_text(text[:-5], encoding="utf-8")
    with pytest.raises(UserError, match=r"\(item 31\): breaks off"):
        rows_of(path)


def test_a_folder_and_a_pattern_mean_their_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("part-1.jsonl", "part-0.jsonl", "README.md", ".hidden.jsonl"):
        (tmp_path / name).write_text(json.dumps({"prompt": name}) + "\n")
    parts = [tmp_path / "part-0.jsonl", tmp_path / "part-1.jsonl"]
    assert find_files("data.path", ".") == find_files("data.path", "part-*") == parts
    (tmp_path / "other.csv").write_text("prompt\nq\n")
    with pytest.raises(UserError, match=r"several kinds \(\.csv, \.jsonl\); name those that are meant"):
        find_files("data.path", str(tmp_path))
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="a folder without data files"):
        find_files("data.path", "d")
    for split in ("train", "test"):
        (tmp_path / "d" / f"{split}-00000-of-00001.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"several splits \(test, train\).*data.path='d/train\*\.jsonl'"):
        find_files("data.path", "d")
