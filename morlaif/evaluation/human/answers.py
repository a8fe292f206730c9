"""What raters returned: files as the form saves them, each row checked against the key, put together by rater."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from morlaif.errors import UserError

Answer = Literal["a", "tie", "b"]
ANSWERS = get_args(Answer)
COLUMNS = ("form", "rater", "item", "answer", "seconds")  # "comment" and "when" may be missing
SHOWN = 20  # mistakes told at once


@dataclass(frozen=True, slots=True)
class Rating:
    rater: str
    item: str
    answer: Answer
    seconds: float
    comment: str
    where: str  # file and row, for whoever looks for it


Ratings: TypeAlias = dict[str, dict[str, Rating]]  # rater -> item -> rating


def read(files: Mapping[str, str], key: Mapping[str, Any]) -> Ratings:
    """Ratings from the texts of `files` (by name; JSON or CSV by its ending).

    A rater's answers may come in several files, and one answer twice where both say the same: a form saved in between
    and again, or as JSON and as CSV.

    Raises:
        UserError: a line for each mistake, with file and row.
    """
    found: Ratings = {}
    mistakes: list[str] = []
    for name, text in files.items():
        seen: set[tuple[str, str]] = set()
        try:
            rows = _json_rows(text) if name.lower().endswith(".json") else _csv_rows(text)
        except ValueError as error:
            mistakes.append(f"{name}: {error}")
            continue
        for number, row in rows:
            where = f"{name} row {number}"
            try:
                rating = _rating(row, key, where)
                _add(found, seen, rating)
            except ValueError as error:
                mistakes.append(f"{where}: {error}")
                if isinstance(error, _OtherForm):
                    break  # all its rows would say so
    if mistakes:
        more = [f"… and {len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
        raise UserError("\n".join([*mistakes[:SHOWN], *more, "nothing was imported; correct or remove these rows"]))
    return found


class _OtherForm(ValueError):
    pass


def _json_rows(text: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Answers with the file's form and rater, numbered from 1."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON (line {error.lineno}: {error.msg}); was the file saved whole?") from None
    if not isinstance(value, dict) or not isinstance(value.get("answers"), list):
        raise ValueError("no answers of a rating form: an object with form, rater and answers is expected")
    head = {name: value.get(name) for name in ("form", "rater")}
    rows = [row if isinstance(row, dict) else {"item": row} for row in value["answers"]]
    return [(number, row | head) for number, row in enumerate(rows, 1)]


def _csv_rows(text: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Rows numbered as a spreadsheet does: the first below the heads is 2. Commas or, as some locales have it,
    semicolons."""
    text = text.removeprefix("\ufeff")
    head = text.partition("\n")[0]
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in head else ","))
    missing = [name for name in COLUMNS if name not in (rows[0] if rows else head.replace('"', ""))]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}; the form saves {', '.join(COLUMNS)}")
    return list(enumerate(rows, 2))


def _rating(row: Mapping[str, Any], key: Mapping[str, Any], where: str) -> Rating:
    if row["form"] != key["form"]:
        raise _OtherForm(f"answers to the form {row['form']!r}, and the key is of the form {key['form']!r}")
    rater, item, answer = (str(row.get(name) or "").strip() for name in ("rater", "item", "answer"))
    if not rater:
        raise ValueError("no rater")
    if item not in key["items"]:
        raise ValueError(f"no item {item!r} in the form")
    if answer not in ANSWERS:
        raise ValueError(f"answer {answer!r} is none of {', '.join(ANSWERS)}")
    try:
        seconds = float(str(row.get("seconds") or 0).replace(",", "."))
    except ValueError:
        raise ValueError(f"seconds {row['seconds']!r} is no number") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"seconds {row['seconds']!r} is no time")
    return Rating(rater, item, answer, seconds, str(row.get("comment") or "").strip(), where)


def _add(found: Ratings, seen: set[tuple[str, str]], rating: Rating) -> None:
    name = next((name for name in found if name.casefold() == rating.rater.casefold()), rating.rater)
    own = found.setdefault(name, {})
    before = own.get(rating.item)
    if (name, rating.item) in seen:
        raise ValueError(f"item {rating.item!r} is answered twice by {rating.rater!r}, first in {before.where}")
    seen.add((name, rating.item))
    if before is not None and before.answer != rating.answer:
        raise ValueError(
            f"{rating.rater!r} answered item {rating.item!r} {rating.answer}, and {before.answer} in {before.where}: "
            "keep the file that counts (or two people have one name)"
        )
    if before is None:
        own[rating.item] = rating
