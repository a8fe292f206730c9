"""The borders of the house: what a text goes through on its way to a console, a CSV, Markdown, a file's name or a log.

Names, paths, errors and replies come from outside. None may style or steer a terminal, start a formula, open a heading
or a folder, or carry a key. Pages have their border in `morlaif.pages`.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Part: TypeAlias = str | tuple[str, str]  # a text, or a text and its style

# --- what cannot be seen --------------------------------------------------------------------------------------------

# Controls, marks of direction, zero-width characters, separators of lines, tags, and halves of surrogate pairs.
UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: object, lines: bool = False) -> str:
    """`text` on one line (on its own lines with `lines`), with an escape for each character that cannot be seen."""
    kept = "\n\t" if lines else ""
    return UNSEEN.sub(lambda found: found[0] if found[0] in kept else _escape(found[0]), str(text))


def _escape(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


# --- secrets --------------------------------------------------------------------------------------------------------

_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)", re.IGNORECASE)
_MASK = r"(?:[*•]{2,}|\.{3}|…)"  # how services blot out the middle of a key that they repeat
_KEYS = (
    re.compile(rf"\b(?:sk|pk|rk|hf|gsk|xai|nvapi|ghp|pplx|fw|r8)[-_][\w-]*{_MASK}[\w*•.…-]*"),
    re.compile(r"\b(?:sk|gsk|xai|nvapi|pplx|fw|r8)[-_](?=[\w-]*\d)[\w-]{16,}"),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"(?<![\w*])[\w-]{2,}\*{3,}[\w*-]*"),
)
_NAMED_KEY = re.compile(rf"(?i)\b(key|token|secret|password|bearer)\b([^\n]{{0,30}}?)(?<!\w)[\w-]*{_MASK}[\w*•-]+")
_BEARER = re.compile(r"(?i)\b(bearer\s+)(?=\S*\d)[\w.~+/=-]{12,}")
_known: set[str] = set()


def keep_secret(value: str) -> str:
    """`value`, which from now on no text of this process shows: a key whose variable's name does not say so."""
    if len(value) > 6:
        _known.add(value)
    return value


def secrets() -> list[str]:
    """The values of environment variables with KEY, TOKEN, SECRET, PASSWORD or CREDENTIAL as a part of their name, and
    what `keep_secret` was given; the longest first."""
    named = {text for name, text in os.environ.items() if _SECRET.search(name) and len(text) >= 8}
    return sorted(named | _known, key=len, reverse=True)


def redact(value: Any, hidden: Sequence[str] | None = None) -> Any:
    """A copy of a text, or of nested dicts and lists, in which every secret reads ***, half-masked ones too."""
    hidden = secrets() if hidden is None else hidden
    if isinstance(value, Mapping):
        return {str(key): redact(item, hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, hidden) for item in value]
    return _redacted(value, hidden) if isinstance(value, str) else value


def _redacted(text: str, hidden: Sequence[str]) -> str:
    for secret in hidden:
        text = text.replace(secret, "***")
        if secret[:3] in text:
            text = re.sub(rf"{re.escape(secret[:3])}[\w-]*{_MASK}[\w*•.…-]*", "***", text)
    for pattern in _KEYS:
        text = pattern.sub("***", text)
    return _BEARER.sub(r"\1***", _NAMED_KEY.sub(r"\1\2***", text))


# --- the console ----------------------------------------------------------------------------------------------------


def line(*parts: Part, lines: bool = False) -> Text:
    """Texts side by side, each as it is: no markup, nothing unseen, no secret. A style comes beside its text."""
    from rich.text import Text

    made = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        made.append(visible(redact(text), lines), style)
    return made


def say(console: Console, *parts: Part, lines: bool = False) -> None:
    """Print `parts` as `line` joins them; wide lines are the terminal's to wrap."""
    console.print(line(*parts, lines=lines), soft_wrap=True)


def _parts(cell: Part | Sequence[Part]) -> Sequence[Part]:
    return cell if isinstance(cell, list) else [cell]  # type: ignore[list-item]  # a tuple is a text with its style


def add_row(table: Table, *cells: Part | Sequence[Part]) -> None:
    """A row of `table`; a cell is a text, a text with its style, or a list of both."""
    table.add_row(*(line(*_parts(cell)) for cell in cells))


# What is printed most that ASCII lacks, in letters that it has.
_NEAR = str.maketrans({
    "·": ".", "×": "x", "–": "-", "—": "-", "…": "...", "─": "-", "│": "|", "→": "->", "←": "<-", "≤": "<=", "≥": ">=",
    "±": "+-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "β": "beta", "σ": "sd", "Δ": "delta", "√": "sqrt",
})  # fmt: skip


def print_anywhere() -> None:
    """Let this process print to terminals of any encoding: what theirs lacks comes as something near it."""
    codecs.register_error("morlaif", _near)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="morlaif")


def _near(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end].translate(_NEAR)
    return lost.encode(error.encoding, "backslashreplace").decode(error.encoding), error.end


# --- CSV ------------------------------------------------------------------------------------------------------------

# A cell that begins so is a formula, or a command, to a spreadsheet. One apostrophe before it makes it a text.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
# Characters that steer a terminal are written \\x1b; so is a backslash before what would be read as one of them.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\\(?=x(?:[01][0-9a-f]|7f|[89][0-9a-f]|5c))")
_CONTROL_CODE = re.compile(r"\\x([01][0-9a-f]|7f|[89][0-9a-f]|5c)")


def csv_cell(value: Any) -> Any:
    """`value` for a cell: a text that a spreadsheet would run gets an apostrophe before it, and what would steer a
    terminal is spelled out; numbers stay."""
    if not isinstance(value, str):
        return value
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "'" + text if _FORMULA.match(text) else text


def from_csv_cell(text: str) -> str:
    """What `csv_cell` was given."""
    text = text[1:] if text.startswith("'") and _FORMULA.match(text) else text
    return _CONTROL_CODE.sub(lambda found: chr(int(found[1], 16)), text)


def write_csv(stream: TextIO, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in (heads, *rows))


# --- Markdown and file names ----------------------------------------------------------------------------------------


def markdown(text: object) -> str:
    """`text` on one line of Markdown, in a table's cell too: nothing in it is a heading, a link, code or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|~&$])", r"\\\1", visible(redact(str(text))))


def file_name(text: str, limit: int = 100) -> str:
    """`text` as one part of a path: no separator, no leading dot, at most `limit` characters.

    Equal for letters, digits and `._-` alone; two texts of which one had to be cut or changed beyond `/` stay apart.
    """
    name = re.sub(r"[^\w.-]", "-", text, flags=re.ASCII).lstrip(".")
    if name == text.replace("/", "-") and len(name.encode()) <= limit:
        return name or "unnamed"
    short = name.encode()[: limit - 9].decode("utf-8", "ignore")
    return f"{short}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def is_address(text: object) -> bool:
    """Whether a place is an address, not a folder or a hub id."""
    return isinstance(text, str) and text.startswith(("http://", "https://"))
