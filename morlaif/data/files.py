"""Rows of files, each with its place: JSON objects, one a line or in one array; Parquet, Arrow, CSV.

What a file is its first bytes tell, and of CSV its name; JSON and CSV may be gzipped.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from functools import partial
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any

from morlaif.data.tables import DELIMITERS, Reader, arrow_rows, csv_rows, parquet_rows
from morlaif.errors import UserError
from morlaif.files import LARGEST, decode, open_file, parse_json

Row = dict[str, Any]

_GZIP = b"\x1f\x8b"
_OTHERS = {  # what other files begin with
    b"PK\x03\x04": "a zip archive; unpack it, and name the JSONL file in it",
    b"BZh": "a bzip2 file; unpack it, or gzip it instead",
    b"\xfd7zXZ": "an xz file; unpack it, or gzip it instead",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it, or gzip it instead",
    b"SQLite format 3": "an SQLite database; write its rows as JSON lines",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
}
_TABLES: dict[bytes, Reader] = {b"PAR1": parquet_rows, b"ARROW1": arrow_rows, b"\xff\xff\xff\xff": arrow_rows}
_WHAT = "one JSON object a line"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", *DELIMITERS)  # of a folder's files; .gz may follow
_SPLITS = re.compile(r"(?i)(?:^|[^a-z])(train|training|test|testing|valid|validation|val|dev|eval)(?:[^a-z]|$)")
_CHUNK = 1 << 20  # bytes of an array that are read at once
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


def find_files(key: str, given: str) -> list[Path]:
    """The absolute paths of the files that the setting `key` names: one, those of a pattern, or those of a folder.

    Raises:
        UserError: there are none, one may not be read, or the files of a folder are of several splits.
    """
    wanted = "one file (JSONL, JSON, Parquet, CSV), a folder of them, or a pattern such as 'data/train-*.parquet'"
    path = Path(os.path.expanduser(given)).absolute()
    try:
        if os.path.isdir(path):
            found = _in_folder(key, given, path)
        elif not os.path.exists(path) and glob.has_magic(given):
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]
            if not found:
                raise UserError(f"{key}: {given!r}: no file matches this pattern, relative to {Path.cwd()}")
        else:
            return [find_file(key, given, wanted)]
    except ValueError:
        return [find_file(key, given, wanted)]
    return [find_file(key, str(one), wanted) for one in found]


def _in_folder(key: str, given: str, folder: Path) -> list[Path]:
    found = sorted(
        path for path in folder.iterdir()
        if path.is_file() and not path.name.startswith((".", "_")) and _suffix(path) in SUFFIXES
    )  # fmt: skip
    if (folder / "state.json").is_file():  # a split as `datasets` saves it, beside files about it
        found = [path for path in found if _suffix(path) == ".arrow"]
    if not found:
        split = (folder / "dataset_dict.json").is_file()
        hint = "its dataset_dict.json names splits: name the folder of one" if split else "name a file"
        raise UserError(f"{key}: {given!r}: is a folder without data files ({', '.join(SUFFIXES)}); {hint}")
    kinds = sorted({_suffix(path) for path in found})
    splits = sorted({match[1].lower() for path in found if (match := _SPLITS.search(path.name))})
    if len(kinds) > 1 or len(splits) > 1:
        what, several = ("kinds", kinds) if len(kinds) > 1 else ("splits", splits)
        raise UserError(
            f"{key}: {given!r}: its files are of several {what} ({', '.join(several)}); name those that are meant, as "
            f"in {key}='{given.rstrip('/')}/{splits[-1] if splits else ''}*{kinds[0]}'"
        )
    return found


def _suffix(path: Path) -> str:
    """The ending that tells what a file is, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_rows(path: Path, name: str | None = None) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row; the place reads "name, line 17" (`name` is the path by default).

    Raises:
        UserError: the file cannot be read, or a line is no JSON object.
    """
    name = name or str(path)
    if (table := _table(path)) is not None:
        yield from table(path, name)
        return
    where = [f"{name}, line 1"]  # how far it was read, for errors of the stream itself
    try:
        with _open(path, name) as stream:
            if (delimiter := DELIMITERS.get(_suffix(path))) is not None:
                yield from csv_rows(stream, name, delimiter)
            else:
                yield from _rows(stream, name, where)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{where[0]}: broken gzip data here or after it ({error}); fetch the file again") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None


def _rows(stream: BufferedIOBase, name: str, where: list[str]) -> Iterator[tuple[str, Row]]:
    begun = False
    before = _lines_before_array(stream)
    if before is not None:
        yield from _array(stream, name, before + 1)
        return
    for line, raw in enumerate(iter(lambda: stream.readline(LARGEST + 1), b""), 1):
        where[0] = place = f"{name}, line {line}"
        if len(raw) > LARGEST:
            raise UserError(f"{place}: longer than {LARGEST >> 20:,} MB; each line must be one JSON object")
        if not (text := _text(raw, place, line).strip()):
            continue
        failure = partial(_one_a_line, text, not begun)
        row = parse_json(text, place, "each line to be one JSON object", of=dict, unique=True, failure=failure)
        yield place, row
        begun = True


def _lines_before_array(stream: BufferedIOBase) -> int | None:
    """How many line ends there are before the array that the stream holds; None if it holds none. The stream is at the
    array's "[", or at its beginning."""
    read, lines = 0, 0
    while block := stream.read(4096):
        begins = block.removeprefix(b"\xef\xbb\xbf") if not read else block
        rest = begins.lstrip(b" \t\r\n")
        lines += begins[: len(begins) - len(rest)].count(b"\n")
        read += len(block)
        if rest:
            is_array = rest.startswith(b"[")
            stream.seek(read - len(rest) if is_array else 0)
            return lines if is_array else None
    stream.seek(0)
    return None


class _Window:
    """The part of a long text that is being parsed, from place `at` on."""

    def __init__(self, stream: BufferedIOBase, name: str, line: int) -> None:
        self._stream, self._name = stream, name
        self.text, self.at, self.line = "", 0, line  # `line`: on which place `at` is
        self._undecoded = b""
        self.ended = False
        self.more()

    def more(self) -> None:
        """Read on, at least as much as is there; what is parsed is dropped."""
        raw = self._stream.read(max(_CHUNK, len(self.text) - self.at))
        self.ended = not raw
        raw = self._undecoded + raw
        whole = len(raw) if self.ended else _characters(raw)
        self._undecoded = raw[whole:]
        lines = self.line + self.text.count("\n", self.at)
        self.text, self.at = self.text[self.at :] + _text(raw[:whole], f"{self._name}, line {lines} or after it", 0), 0
        if len(self.text) > LARGEST:
            raise UserError(f"{self._name}, line {self.line}: an item of more than {LARGEST >> 20:,} MB")

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def skip_space(self) -> None:
        while True:
            self.move(_after_space(self.text, self.at))
            if self.at < len(self.text) or self.ended:
                return
            self.more()

    def takes(self, mark: str) -> bool:
        """Whether `mark` is next; it is passed."""
        self.skip_space()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += 1
        return True

    def item(self, decoder: json.JSONDecoder) -> str:
        """The text of the next value, passed; the rest of the window if it is none."""
        while True:
            try:
                end = decoder.raw_decode(self.text, self.at)[1]
                break
            except json.JSONDecodeError as error:
                unended = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - 16
                if self.ended or not unended:
                    end = len(self.text)
                    break
            except (ValueError, RecursionError):  # whoever parses it reports this
                end = len(self.text)
                break
            self.more()
        found = self.text[self.at : end]
        self.move(end)
        return found


def _characters(raw: bytes) -> int:
    """How many bytes of `raw` end with a whole character of UTF-8."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 != 0x80:  # no continuation: a character begins here
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(raw) - back if length > back else len(raw)
    return len(raw)


def _array(stream: BufferedIOBase, name: str, line: int) -> Iterator[tuple[str, Row]]:
    """The items of one array, one after another, each with the line on which it begins."""
    decoder, window = json.JSONDecoder(), _Window(stream, name, line)
    window.takes("[")
    for item in count(1):
        window.skip_space()
        place = f"{name}, line {window.line} (item {item})"
        if item == 1 and window.takes("]"):
            break
        yield place, parse_json(window.item(decoder), place, "each item to be an object", of=dict, unique=True)
        if window.takes("]"):
            break
        if not window.takes(","):
            raise UserError(f"{place}: no comma and no ']' after it; the array must be closed, its items parted by ','")
    window.skip_space()
    if window.at < len(window.text):
        raise UserError(f"{name}, line {window.line}: text after the array's end; give one array, or one object a line")


def _table(path: Path) -> Reader | None:
    """What reads the file, where it is a table."""
    begin = _begin(path)
    return next((reader for magic, reader in _TABLES.items() if begin.startswith(magic)), None)


def _begin(path: Path) -> bytes:
    with open_file(path, _WHAT) as stream:
        return stream.read(32)


def _open(path: Path, name: str) -> BufferedIOBase:
    begin = _begin(path)
    for magic, what in _OTHERS.items():
        if begin.startswith(magic):
            raise UserError(f"{name}: this is {what}")
    return gzip.open(path, "rb") if begin.startswith(_GZIP) else path.open("rb")


def _text(raw: bytes, place: str, line: int) -> str:
    text = decode(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw, place, _WHAT)
    if "\0" in text:
        raise UserError(f"{place}: holds NUL bytes: binary, UTF-16, or damaged; expected {_WHAT}, saved as UTF-8")
    return text


def _one_a_line(text: str, first: bool, line: str) -> UserError:
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
