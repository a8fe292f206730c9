"""Every kind of damage to a file that is read becomes one line with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from morlaif import files
from morlaif.errors import UserError
from morlaif.files import read_json, read_json_lines, read_text

BROKEN = [  # bytes, what follows the path
    (b"", ": is empty"),
    (b" \n", ": is empty"),
    (b"{", ": breaks off in the middle"),
    (b'{"a": 1,\n "b": ', ": breaks off in the middle"),
    (b'{"a": 1,\n "b": tru}', ":2:7: not JSON (expecting value)"),
    (b"{'a': 1}", ", column 2: not JSON"),
    (b'{"a": "x', ": breaks off in the middle"),
    (b'{"a": "x,\n"b": 2}', ":1:10: not JSON (invalid control character)"),
    (b"{}\n{}", ":2:1: not JSON (extra data)"),
    (b"[" * 100_000, ": JSON nested too deeply"),
    (b"[" * 101 + b"]" * 101, ": JSON nested too deeply"),
    (b"[" + b"9" * 5_000 + b"]", ": an integer of more than 4,300 digits"),
    (b'{"a": "\\ud800"}', r": half of a character (\ud800 alone)"),
    (b'{"\\udc00": 1}', r": half of a character (\udc00 alone)"),
    (b'{"a":\n "\xff"}', ":2: byte 0xff is not UTF-8"),
    ("{}".encode("utf-16"), ": is UTF-16"),
    (b"\0\0\0\0", ", column 1: not JSON"),
]
UNBOUNDED = [(b"[NaN]", "NaN"), (b"[-Infinity]", "-Infinity"), (b"[1e999]", "past all bounds")]


def line_of(path: Path, read, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        found = read(path, *args, **kwargs)
        list(found) if read is read_json_lines else None
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line
    return line[len(str(path)) :]


@pytest.mark.parametrize(("raw", "told"), BROKEN, ids=lambda value: str(value)[:20])
def test_broken_json(tmp_path, raw, told):
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    line = line_of(path, read_json, "a key file")
    assert line.startswith(told) and (line.endswith("expected a key file") or "UTF-8" in line)


@pytest.mark.parametrize(("raw", "told"), UNBOUNDED, ids=str)
def test_numbers_that_are_none_are_refused_where_that_is_asked_for(tmp_path, raw, told):
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    assert told in line_of(path, read_json, finite=True)
    assert isinstance(read_json(path), list)


@pytest.mark.parametrize(
    ("raw", "told"),
    [*((raw, told) for raw, told in BROKEN if raw and not {*b"\n\0"} & {*raw}), (b"[1]", ": holds a list")],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_broken_lines_name_their_line(tmp_path, raw, told):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + raw + b'\n{"b": 2}\n')
    rows = read_json_lines(path)
    assert next(rows) == (1, {"a": 1})
    assert line_of(path, lambda _: list(rows)).startswith(":3" + told)


def test_types(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    assert read_json(path, of=list) == [1]
    assert line_of(path, read_json, "a key file", of=dict) == (
        ": holds a list where an object should be; expected a key file"
    )


def test_places_that_are_no_file(tmp_path, monkeypatch):
    assert line_of(tmp_path / "none", read_json).startswith(": no such file")
    assert line_of(tmp_path, read_json).startswith(": is a folder")
    assert line_of(Path("/dev/zero"), read_text).startswith(": is no regular file")
    os.mkfifo(tmp_path / "pipe")
    assert line_of(tmp_path / "pipe", read_json_lines).startswith(": is no regular file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert line_of(tmp_path / "loop", read_json).startswith(": cannot be read")
    (tmp_path / "file").write_text("{}")
    assert line_of(tmp_path / "file" / "below", read_json).startswith(": cannot be read (Not a directory)")
    assert line_of(tmp_path / ("x" * 300), read_json).startswith(": cannot be read (File name too long)")
    with pytest.raises(UserError, match="null byte"):
        read_json(Path("a\0b"))
    monkeypatch.setattr(files, "LARGEST", 100)
    (tmp_path / "large").write_text("[" + "1," * 100 + "1]")
    assert "too large" in line_of(tmp_path / "large", read_json)
    assert line_of(tmp_path / "large", read_json_lines).startswith(":1: a line of more than")


def test_a_byte_order_mark_is_no_damage(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert read_json(path) == {"a": 1} and list(read_json_lines(path)) == [(1, {"a": 1})]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, ascii_only=st.booleans())
def test_whatever_was_written_is_read(tmp_path, value, ascii_only):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8")
    assert read_json(path, finite=True) == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary() | st.text(alphabet='[]{}":,0123456789eE.-+\\udntrufalse \n').map(str.encode))
def test_any_bytes_are_read_or_get_one_line(tmp_path, raw):
    path = tmp_path / "a"
    path.write_bytes(raw)
    for read in (read_json, read_json_lines, read_text):
        try:
            found = read(path)
            list(found) if read is read_json_lines else None
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
