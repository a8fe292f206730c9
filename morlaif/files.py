"""Every file of JSON, JSON lines, YAML or text that is read: what is wrong with it becomes one line with its place.

The place reads `path`, `path:line` or `path:line:column`. What is refused: a folder, pipe or device in place of a file,
bytes that are not UTF-8, text that is not JSON, numbers and nesting past all bounds, halves of characters (lone
surrogates, which no file could be written with again), and more than memory should hold.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from morlaif.errors import UserError

LARGEST = 1 << 30  # bytes of one file, or of one line of a file of lines
DEEPEST = 100  # lists and mappings within one another
Failure = Callable[[str], Exception]  # makes the error of its line: UserError, or Damaged for what morlaif itself wrote
_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
_NEWLINE = b"\n"
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(
    path: Path, what: str = "JSON", *, of: type | None = None, finite: bool = False, failure: Failure = UserError
) -> Any:
    """The value of a JSON file.

    Args:
        what: what the file should hold, in a few words that follow "expected": "a judge's key file".
        of: the type of the value, dict or list, where it matters.
        finite: refuse NaN and Infinity, which JSON does not have but Python reads.
        failure: makes the error.

    Raises:
        failure: the file cannot be read, or does not hold that.
    """
    return parse_json(read_text(path, what, failure=failure), str(path), what, of=of, finite=finite, failure=failure)


def read_json_lines(
    path: Path, what: str = "one JSON object a line", *, of: type | None = dict, finite: bool = False,
    failure: Failure = UserError,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """(line number, value) of each line that is not blank; arguments and errors as in `read_json`."""
    with open_file(path, what, failure=failure) as stream:
        number = 0
        while raw := _guarded(lambda: stream.readline(LARGEST + 1), path, what, failure):
            number += 1
            where = f"{path}:{number}"
            if len(raw) > LARGEST:
                raise failure(f"{where}: a line of more than {LARGEST >> 20:,} MB; expected {what}")
            text = decode(_without_mark(raw) if number == 1 else raw, where, what, failure=failure)
            if text.strip():
                yield number, parse_json(text, where, what, of=of, finite=finite, failure=failure)


def read_text(path: Path, what: str = "text", *, failure: Failure = UserError) -> str:
    """The text of a UTF-8 file, its byte order mark left out.

    Raises:
        failure: as in `read_json`.
    """
    with open_file(path, what, failure=failure) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > LARGEST:
            raise failure(f"{path}: {size / 2**30:.1f} GB, too large to be read whole; expected {what}")
        raw = _guarded(stream.read, path, what, failure)
    return decode(_without_mark(raw), str(path), what, failure=failure)


def open_file(path: Path, what: str = "a file", *, failure: Failure = UserError) -> IO[bytes]:
    """A regular file, open for reading: never a pipe or device, which might not end.

    Raises:
        failure: it is none, or cannot be opened.
    """

    def opened() -> IO[bytes]:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise failure(f"{path}: is a folder; expected a file, {what}")
        if not stat.S_ISREG(mode):
            raise failure(f"{path}: is no regular file (a pipe, socket or device); expected {what}")
        return path.open("rb")

    return _guarded(opened, path, what, failure)


def parse_json(
    text: str, where: str, what: str = "JSON", *, of: type | None = None, finite: bool = False, unique: bool = False,
    failure: Failure = UserError,
) -> Any:  # fmt: skip
    """The value of a text of JSON that comes from `where`, a place such as `path:line`; see `read_json`.

    unique: refuse an object that has a key twice, of which Python would keep the last.
    """
    expected = f"expected {what}"
    if not text.strip():
        raise failure(f"{where}: is empty; {expected}")
    try:
        value = json.loads(
            text, parse_constant=_no_constant if finite else None, object_pairs_hook=_once if unique else None
        )
    except json.JSONDecodeError as error:
        unended = error.msg.startswith("Unterminated string") and "\n" not in text[error.pos :].strip()
        if error.pos >= len(text.rstrip()) or unended:
            raise failure(f"{where}: breaks off in the middle (half written or half copied?); {expected}") from None
        at = f"{where}:{error.lineno}:{error.colno}" if "\n" in text.strip() else f"{where}, column {error.colno}"
        reason = (error.msg[0].lower() + error.msg[1:]).removesuffix(" at")
        raise failure(f"{at}: not JSON ({reason}); {expected}") from None
    except RecursionError:
        raise failure(f"{where}: JSON nested too deeply (at most {DEEPEST} levels); {expected}") from None
    except ValueError as error:  # an integer of thousands of digits, or a constant
        raise failure(f"{where}: {_bad_value(error)}; {expected}") from None
    if text.count("[") + text.count("{") > DEEPEST and _deeper(value):
        raise failure(f"{where}: JSON nested too deeply (at most {DEEPEST} levels); {expected}")
    if "\\u" in text and (half := _SURROGATE.search(json.dumps(value, ensure_ascii=False))):
        raise failure(f"{where}: half of a character (\\u{ord(half[0]):04x} alone); write its text as UTF-8 again")
    if finite and re.search(r"\d[eE]\+?\d\d\d", text) and "Infinity" in json.dumps(value):
        raise failure(f"{where}: a number past all bounds (at most 1.8e308); {expected}")
    return _checked(value, where, what, of, failure)


def decode(raw: bytes, where: str, what: str = "text", *, failure: Failure = UserError) -> str:
    """UTF-8 bytes as text; where they are several lines, the error says in which."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise failure(f"{where}: is UTF-16; expected {what}, saved as UTF-8") from None
        line = f":{raw.count(_NEWLINE, 0, error.start) + 1}" if _NEWLINE in raw.rstrip(_NEWLINE) else ""
        byte = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise failure(f"{where}{line}: {byte}; expected {what}, saved as UTF-8") from None


def _without_mark(raw: bytes) -> bytes:
    return raw.removeprefix(codecs.BOM_UTF8)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


def _bad_value(error: ValueError) -> str:
    return "an integer of more than 4,300 digits" if "integer string" in str(error) else str(error)


def _checked(value: Any, where: str, what: str, of: type | None, failure: Failure) -> Any:
    if of is not None and not isinstance(value, of):
        found = _NAMES.get(type(value), "a number")
        raise failure(f"{where}: holds {found} where {_NAMES[of]} should be; expected {what}")
    return value


def _deeper(value: Any) -> bool:
    """Whether lists and mappings are within one another more than DEEPEST times."""
    level, depth = [value], 0
    while level:
        depth += 1
        below = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in below if isinstance(child, dict | list)] if depth <= DEEPEST else []
    return depth > DEEPEST


def _guarded(read: Callable[[], Any], path: Path, what: str, failure: Failure) -> Any:
    """What `read` returns; an error of the system becomes the one line."""
    try:
        return read()
    except FileNotFoundError:
        raise failure(f"{path}: no such file; expected {what}") from None
    except PermissionError:
        raise failure(f"{path}: may not be read by this user; expected {what}") from None
    except MemoryError:
        raise failure(f"{path}: too large for the memory of this machine; expected {what}") from None
    except OSError as error:
        raise failure(f"{path}: cannot be read ({error.strerror}); expected {what}") from None
    except ValueError as error:  # a null byte in the path
        raise failure(f"{str(path)!r}: {error}; expected the path of a file, {what}") from None
