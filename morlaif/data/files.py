"""Rows of a file of one JSON object a line, each with its place, plain or gzipped whatever the name says."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from morlaif.errors import UserError

_GZIP = b"\x1f\x8b"


def read_jsonl(path: Path, name: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) for every line that is not blank; the place reads "name, line 17" (`name` is the path by default).

    Raises:
        UserError: the file cannot be read, or a line is no JSON object.
    """
    name = name or str(path)
    line = 0
    try:
        with _open(path) as stream:
            for line, raw in enumerate(stream, 1):
                if text := _decode(raw, name, line).strip():
                    yield f"{name}, line {line}", _parse(text, name, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{name}, after line {line}: broken gzip data ({error}); fetch the file again") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder; name one JSONL file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        zipped = stream.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _decode(raw: bytes, name: str, line: int) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, line {line}: byte {error.start + 1} is not UTF-8; save the file as UTF-8 JSON, one object a line"
        ) from None


def _parse(text: str, name: str, line: int) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "a JSON array over several lines is not JSONL; " if line == 1 and text.startswith("[") else ""
        raise UserError(
            f"{name}, line {line}: not JSON ({error.msg} at column {error.colno}); {hint}each line must be one object"
        ) from None
    except RecursionError:
        raise UserError(f"{name}, line {line}: JSON nested too deeply; each line must be one flat object") from None
    if not isinstance(row, dict):
        raise UserError(f"{name}, line {line}: a JSON {type(row).__name__}; each line must be one JSON object")
    return row
