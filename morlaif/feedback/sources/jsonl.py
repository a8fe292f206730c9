"""Ready verdicts from a file of one JSON object a line, plain or gzipped.

Each line names its pair by `pair_id`, or by its content: `prompt` (text) or `messages`, with `first` and `second`.
It gives `p_first`, the probability in [0, 1] that `first` is better, or null for an invalid verdict; and may give
`principle` (absent: the line holds for every principle), `bias` and `reason`. The order of the lines does not
matter, nor does the order of two responses: a line about the swapped pair is turned round.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from morlaif.data.records import Pair, content_id, prompt_id
from morlaif.errors import UserError, suggest
from morlaif.feedback.records import Comparison, Usage, Verdict

KEYS = ("pair_id", "prompt", "messages", "first", "second", "principle", "p_first", "bias", "reason")
Row = tuple[float | None, float | None, str | None, int]  # p_first, bias, reason, line


class JsonlJudge:
    """Passes on the verdicts of a file. A pair that it does not mention is invalid."""

    name = "jsonl"
    remembers = False

    def __init__(self, path: Path) -> None:
        self.usage = Usage(method="jsonl")
        self._rows = read(path)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        for asked in comparisons:
            yield asked, self._verdict(asked)

    def truth(self, comparison: Comparison) -> None:
        return None

    def _verdict(self, asked: Comparison) -> Verdict:
        principle = asked.principle.name if asked.principle else None
        swapped = content_id(prompt_id(asked.messages), asked.second, asked.first)
        for name in dict.fromkeys((principle, None)):
            for id, turn in ((asked.id, False), (swapped, True)):
                if (row := self._rows.get((id, name))) is not None:
                    return self._of(asked, row, turn)
        return Verdict.invalid(asked.id, self.name, "not in the file")

    def _of(self, asked: Comparison, row: Row, turn: bool) -> Verdict:
        p, bias, reason, _ = row
        if p is None:
            return Verdict.invalid(asked.id, self.name, reason or "invalid in the file")
        return Verdict(asked.id, 1.0 - p if turn else p, bias or 0.0, True, self.name)


def read(path: Path) -> dict[tuple[str, str | None], Row]:
    """The rows of the file at `path` by pair and principle.

    Raises:
        UserError: a line is wrong, named by its number; or two lines contradict one another.
    """
    rows: dict[tuple[str, str | None], Row] = {}
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    key, row = _row(line, f"{path}:{number}", number)
                    before = rows.setdefault(key, row)
                    if before[:2] != row[:2]:
                        raise UserError(
                            f"{path}:{number}: another verdict on the same pair and principle than in line {before[3]}"
                        )
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"feedback.path={str(path)!r}: cannot be read as JSON lines ({error})") from None
    if not rows:
        raise UserError(f"feedback.path={str(path)!r}: the file holds no verdict")
    return rows


def _row(line: str, where: str, number: int) -> tuple[tuple[str, str | None], Row]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: give an object such as {{"pair_id": …, "p_first": 0.8}}, not {type(row).__name__}')
    for key in row:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key '{key}'.{suggest(key, KEYS)} Known: {', '.join(KEYS)}")
    if "p_first" not in row:
        raise UserError(f"{where}: no 'p_first', the probability in [0, 1] that the first response is better (or null)")
    for key, kind, low, high in (("p_first", "a number from 0 to 1", 0, 1), ("bias", "a number", -1e9, 1e9)):
        value = row.get(key)
        number_like = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if value is not None and not number_like:
            raise UserError(f"{where}: {key}={value!r}; give {kind}, or null")
    for key in ("pair_id", "principle", "reason", "prompt", "first", "second"):
        if not isinstance(row.get(key), str | None):
            raise UserError(f"{where}: {key} must be text, not {row[key]!r}")
    p = None if row["p_first"] is None else float(row["p_first"])
    bias = None if row.get("bias") is None else float(row["bias"])
    return (_pair_id(row, where), row.get("principle")), (p, bias, row.get("reason"), number)


def _pair_id(row: dict[str, Any], where: str) -> str:
    if row.get("pair_id") is not None:
        return row["pair_id"]
    if (row.get("prompt") is None) == (row.get("messages") is None) or None in (row.get("first"), row.get("second")):
        raise UserError(f"{where}: name the pair by 'pair_id', or by 'prompt' (or 'messages'), 'first' and 'second'")
    messages = row.get("messages")
    if messages is None:
        messages = [{"role": "user", "content": row["prompt"]}]
    try:
        return Pair.of([{"role": m["role"], "content": m["content"]} for m in messages], row["first"], row["second"]).id
    except (KeyError, TypeError):
        raise UserError(f"{where}: messages must be a list of objects with 'role' and 'content'") from None
