"""What raters returned: files as the form saves them, each row checked against the key, put together by rater."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from morlaif.errors import UserError
from morlaif.files import parse_json
from morlaif.texts import UNSEEN, from_csv_cell

Answer = Literal["a", "tie", "b"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)
COLUMNS = ("form", "rater", "item", "answer", "seconds")  # "comment" and "when" may be missing
WHAT = "the answers that a rating form saved: an object with form, rater and answers"
SHOWN = 20  # mistakes shown at once
LONGEST = {"rater": 200, "comment": 100_000}  # characters; the form takes 80 and 2,000
SLOWEST = 10_000_000  # seconds for a pair, four months: more is no time that anybody took


@dataclass(frozen=True, slots=True)
class RaterAnswer:
    rater: str
    item: str
    answer: Answer
    seconds: float
    comment: str
    where: str  # file and row, for whoever looks for it


Ratings: TypeAlias = dict[str, dict[str, RaterAnswer]]  # rater -> item -> rating
Row: TypeAlias = tuple[int, Mapping[str, Any]]  # its number, and its values by column


def read(files: Mapping[str, str], key: Mapping[str, Any]) -> Ratings:
    """Ratings from the texts of `files` (by name; JSON or CSV by its ending).

    A rater's answers may come in several files, and one answer twice where both say the same: a form saved in between
    and again, or as JSON and as CSV. Names that look alike are one rater's.

    Raises:
        UserError: a line for each mistake, with file and row.
    """
    found: Ratings = {}
    mistakes: list[str] = []
    for name, text in files.items():
        seen: set[tuple[str, str]] = set()
        rows = _json_rows if name.lower().endswith(".json") else _csv_rows
        try:
            for number, row in rows(name, text):
                where = f"{name} row {number}"
                try:
                    _add(found, seen, _rating(row, key, where))
                except _OtherForm:
                    raise
                except ValueError as error:
                    mistakes.append(f"{where}: {error}")
        except _OtherForm as error:  # all its rows would say so
            mistakes.append(f"{where}: {error}")
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        more = [f"… and {len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
        raise UserError("\n".join([*mistakes[:SHOWN], *more, "nothing was imported; correct or remove these rows"]))
    return found


class _OtherForm(ValueError):
    pass


def _json_rows(name: str, text: str) -> Iterator[Row]:
    """Answers with the file's form and rater, numbered from 1."""
    value = parse_json(text, name, WHAT, of=dict)
    if not isinstance(value.get("answers"), list):
        raise UserError(f"{name}: no answers of a rating form; expected {WHAT}")
    head = {part: value.get(part) for part in ("form", "rater")}
    if head["rater"] is None or not _alike(str(head["rater"])):
        raise UserError(f"{name}: no rater; write the name or code of whoever answered")
    for number, row in enumerate(value["answers"], 1):
        yield number, (row if isinstance(row, dict) else {"item": row}) | head


def _csv_rows(name: str, text: str) -> Iterator[Row]:
    """Rows numbered as a spreadsheet does: the first below the heads is 2. Commas or, as some locales have it,
    semicolons or tabs."""
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in (";", "\t") if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        heads = [head.strip() for head in next(reader, [])]
        if missing := [column for column in COLUMNS if column not in heads]:
            raise UserError(f"{name}: no column {', '.join(missing)}; the form saves {', '.join(COLUMNS)}")
        if twice := [head for place, head in enumerate(heads) if head and head in heads[:place]]:
            raise UserError(f"{name}: column {twice[0]!r} is there twice; the form saves {', '.join(COLUMNS)}")
        for number, cells in enumerate(reader, 2):
            if not any(cells):
                continue
            if len(cells) != len(heads):
                counts = f"{len(cells)} values where the first row names {len(heads)} columns"
                raise UserError(f"{name} row {number}: {counts}; was the file saved whole?")
            yield number, dict(zip(heads, map(from_csv_cell, cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{name}:{max(1, reader.line_num)}: no CSV ({error}); save it as the form did") from None


def _rating(row: Mapping[str, Any], key: Mapping[str, Any], where: str) -> RaterAnswer:
    if row["form"] != key["form"]:
        raise _OtherForm(f"answers to the form {_short(row['form'])}, and the key is of the form {key['form']!r}")
    rater, item, answer, comment = (_text(row, name) for name in ("rater", "item", "answer", "comment"))
    if not _alike(rater):
        raise ValueError("no rater")
    if item not in key["items"]:
        raise ValueError(f"no item {_short(item)} in the form")
    given = next((one for one in ANSWERS if one == answer), None)
    if given is None:
        raise ValueError(f"answer {_short(answer)} is none of {', '.join(ANSWERS)}")
    return RaterAnswer(rater, item, given, _seconds(row.get("seconds")), comment, where)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool | float | dict | list):
        raise ValueError(f"{name} {_short(value)} is no text")
    text = "" if value is None else str(value).strip()
    if len(text) > (longest := LONGEST.get(name, len(text))):
        raise ValueError(f"{name} of {len(text):,} characters; at most {longest:,}")
    return text


def _seconds(value: Any) -> float:
    """Nothing given counts as 0."""
    if value is None or value == "":
        return 0.0
    try:
        if isinstance(value, bool | dict | list):
            raise ValueError
        seconds = float(str(value).replace(",", "."))
    except ValueError:
        raise ValueError(f"seconds {_short(value)} is no number") from None
    if not 0 <= seconds <= SLOWEST:
        raise ValueError(f"seconds {_short(value)} is no time for a pair (0 to {SLOWEST:,})")
    return seconds


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:50]}… ({len(shown):,} characters)"


def _alike(name: str) -> str:
    """Equal for names that a person reads as one: case, composed letters and what cannot be seen do not count."""
    return " ".join(UNSEEN.sub("", unicodedata.normalize("NFKC", name)).casefold().split())


def _add(found: Ratings, seen: set[tuple[str, str]], rating: RaterAnswer) -> None:
    name = next((name for name in found if _alike(name) == _alike(rating.rater)), rating.rater)
    own = found.setdefault(name, {})
    before = own.get(rating.item)
    if before is not None and (name, rating.item) in seen:
        raise ValueError(f"item {rating.item!r} is answered twice by {rating.rater!r}, first in {before.where}")
    seen.add((name, rating.item))
    if before is not None and before.answer != rating.answer:
        raise ValueError(
            f"{rating.rater!r} answered item {rating.item!r} {rating.answer}, and {before.answer} in {before.where}: "
            "keep the file that counts (or two people have one name)"
        )
    if before is None:
        own[rating.item] = rating
