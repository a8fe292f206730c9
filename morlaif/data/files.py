"""Rows of a file of JSON objects, each with its place: one a line or one array, plain or gzipped whatever the name."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from morlaif.errors import UserError
from morlaif.files import LARGEST, decode, open_file, parse_json

Row = dict[str, Any]

_GZIP = b"\x1f\x8b"
_OTHERS = {  # what other files begin with
    b"PAR1": "a Parquet file; write its rows as JSON lines, as `to_json` of datasets or pandas does",
    b"ARROW1": "an Arrow file; write its rows as JSON lines, as `to_json` of datasets or pandas does",
    b"PK\x03\x04": "a zip archive; unpack it, and name the JSONL file in it",
    b"BZh": "a bzip2 file; unpack it, or gzip it instead",
    b"\xfd7zXZ": "an xz file; unpack it, or gzip it instead",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it, or gzip it instead",
    b"SQLite format 3": "an SQLite database; write its rows as JSON lines",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
}
_WHAT = "one JSON object a line"
_SPACE = re.compile(r"[ \t\r\n]*")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def find_file(key: str, given: str, wanted: str = "one JSONL(.gz) file") -> Path:
    """The absolute path of the file that the setting `key` names; it can be opened. `wanted`: what it should be.

    Raises:
        UserError: it is not there, no file, or may not be read.
    """
    path = Path(os.path.expanduser(given)).absolute()
    try:
        if os.path.isdir(path) or not os.path.exists(path):  # false too for names that no file can have
            what = "is a folder" if os.path.isdir(path) else "there is no such file"
            raise UserError(f"{key}: {given!r}: {what}; name {wanted}, relative to {Path.cwd()}")
        open_file(path, _WHAT, failure=lambda line: UserError(f"{key}: {line}")).close()
    except ValueError:
        raise UserError(f"{key}: {given!r}: no file has such a name; name {wanted}") from None
    return path


def read_rows(path: Path, name: str | None = None) -> Iterator[tuple[str, Row]]:
    """(place, row) of every object; the place reads "name, line 17" (`name` is the path by default).

    Raises:
        UserError: the file cannot be read, or a line is no JSON object.
    """
    name = name or str(path)
    where = [f"{name}, line 1"]  # how far it was read, for errors of the stream itself
    try:
        with _open(path, name) as stream:
            yield from _rows(stream, name, where)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{where[0]}: broken gzip data here or after it ({error}); fetch the file again") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None


def _rows(stream: BufferedIOBase, name: str, where: list[str]) -> Iterator[tuple[str, Row]]:
    begun = False
    for line, raw in enumerate(iter(lambda: stream.readline(LARGEST + 1), b""), 1):
        where[0] = place = f"{name}, line {line}"
        if len(raw) > LARGEST:
            raise UserError(f"{place}: longer than {LARGEST >> 20:,} MB; each line must be one JSON object")
        if not (text := _text(raw, place, line).strip()):
            continue
        if not begun and text.startswith("["):
            yield from _array(_text(raw + stream.read(), name, line), name, line)
            return
        told = partial(_told, text, not begun)
        row = parse_json(text, place, "each line to be one JSON object", of=dict, unique=True, failure=told)
        yield place, row
        begun = True


def _array(text: str, name: str, line: int) -> Iterator[tuple[str, Row]]:
    """The items of one array, one after another, each with the line on which it begins."""
    decoder = json.JSONDecoder()
    at, seen = _after_space(text, text.index("[") + 1), 0
    for item in range(1, len(text)):
        line, seen = line + text.count("\n", seen, at), at
        place = f"{name}, line {line} (item {item})"
        if item == 1 and text.startswith("]", at):
            break
        try:
            end = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):  # told below
            end = len(text)
        yield place, parse_json(text[at:end], place, "each item to be an object", of=dict, unique=True)
        at = _after_space(text, end)
        if text.startswith("]", at):
            break
        if not text.startswith(",", at):
            raise UserError(f"{place}: no comma and no ']' after it; the array must be closed, its items parted by ','")
        at = _after_space(text, at + 1)
    if rest := text[at + 1 :].strip():
        line += text.count("\n", seen, text.index(rest[0], at + 1))
        raise UserError(f"{name}, line {line}: text after the array's end; give one array, or one object a line")


def _open(path: Path, name: str) -> BufferedIOBase:
    with open_file(path, _WHAT) as stream:
        begin = stream.read(32)
    for magic, what in _OTHERS.items():
        if begin.startswith(magic):
            raise UserError(f"{name}: this is {what}")
    return gzip.open(path, "rb") if begin.startswith(_GZIP) else path.open("rb")


def _text(raw: bytes, place: str, line: int) -> str:
    text = decode(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw, place, _WHAT)
    if "\0" in text:
        raise UserError(f"{place}: holds NUL bytes: binary, UTF-16, or damaged; expected {_WHAT}, saved as UTF-8")
    return text


def _told(text: str, first: bool, line: str) -> UserError:
    """The error of a line that is no object: with a remedy where one is likely."""
    hint = ""
    if text.endswith("},"):
        hint = "; take out the comma at the line's end"
    elif "}{" in text or "}\r{" in text:
        hint = "; put a line break between objects"
    elif first and text.startswith("{") and not text.endswith("}"):
        hint = "; an object that spans several lines must be put on one, as `jq -c .` does"
    elif first and not text.startswith("{"):
        hint = "; is it CSV or YAML?"
    return UserError(line + hint)
