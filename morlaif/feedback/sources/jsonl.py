"""Ready verdicts from a file of JSON lines or of one JSON array, plain or gzipped.

Each row names its pair by `pair_id`, or by its content: `prompt` (text) or `messages`, with `first` and `second`.
It gives `p_first`, the probability in [0, 1] that `first` is better, or null for an invalid verdict; and may give
`principle` (absent: the row holds for every principle), `bias` and `reason`. The order of the rows does not matter, nor
does the order of two responses: a row about the swapped pair is turned round. Contents are compared without white space
at their ends, with line ends and composed characters in one form, and prompts are read as those of data are.
"""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from morlaif.data.files import read_rows
from morlaif.data.records import Message, content_id, prompt_id
from morlaif.data.rows import MalformedRow, UnusableRow, read_prompt
from morlaif.errors import UserError, suggest
from morlaif.feedback.judge import SourceJudge
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import JsonlSettings, Principle, input_files

KEYS = ("pair_id", "prompt", "messages", "first", "second", "principle", "p_first", "bias", "reason")
MOST = 0.5  # of the rows without their pair, and of the pairs without a row: more of both is a mistake
log = logging.getLogger("morlaif")


@dataclass(frozen=True, slots=True)
class Row:
    p: float | None  # as the row has it
    turn: bool  # whether the row has the responses in the other order than the pair is known by
    bias: float | None
    reason: str | None
    where: str

    def turned(self, turn: bool) -> Row:
        """The row as one about the pair in the order in which it is known, or in the other one."""
        if turn == self.turn:
            return self
        return Row(None if self.p is None else 1.0 - self.p, turn, self.bias, self.reason, self.where)


@dataclass
class VerdictRows:
    """The rows of a file: by pair, then by principle."""

    pairs: dict[str, dict[str | None, Row]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Raises `UserError` where the row is wrong, or contradicts another."""
        pair, turn = _pair(row, where)
        p = row["p_first"]
        new = Row(None if p is None else float(p), turn, row.get("bias"), row.get("reason"), where)
        before = self.pairs.setdefault(pair, {}).setdefault(row.get("principle"), new)
        if not _agree(before.turned(turn), new):
            raise UserError(f"{where}: another verdict on the same pair and principle than in {_short(before.where)}")

    @property
    def rows(self) -> int:
        return sum(map(len, self.pairs.values()))


class FileJudge(SourceJudge[JsonlSettings]):
    """Passes on the verdicts of a file. A pair that it does not mention is invalid."""

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        self.usage = Usage(method="jsonl")
        self._path, self._labels = path, read(path)
        self._seen: set[str] = set()  # pairs of the file that were asked about
        self._asked = self._matched = self._found = 0  # pairs; pairs with a row; with one under the principle asked
        self._names: set[str] = set()

    @classmethod
    def open(cls, settings: JsonlSettings, *, ledger: Path, seed: int, together: Sequence[Principle]) -> FileJudge:
        return cls(input_files(settings)[0])

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        for asked in comparisons:
            yield asked, self._verdict(asked)

    def finish(self) -> dict[str, int]:
        """When all was asked: how many rows had no pair.

        Raises:
            UserError: most had none, and most pairs no row; or none is under the principle that was asked for.
        """
        rows = self._labels.rows
        lost = {pair: of for pair, of in self._labels.pairs.items() if pair not in self._seen}
        unmatched = sum(map(len, lost.values()))
        if self._asked and unmatched > MOST * rows and self._matched < MOST * self._asked:
            raise UserError(
                f"{self._path}: {unmatched} of {rows} verdicts belong to no pair of this run, as the one in "
                f"{_short(_first(lost).where)}, and {self._asked - self._matched} of {self._asked} pairs have none; "
                "prompt and both responses must be those of the pairs, word for word"
            )
        if self._matched and not self._found:
            given = sorted({name for of in self._labels.pairs.values() for name in of if name is not None})
            wanted = ", ".join(sorted(self._names))
            raise UserError(
                f"{self._path}: no verdict under '{wanted}'; it has those under {', '.join(given)}."
                f"{suggest(wanted, given)}"
            )
        if unmatched:
            line = (
                f"{self._path}: {unmatched} of {rows} verdicts belong to no pair of this run, as the one in "
                f"{_short(_first(lost).where)}; they count for nothing"
            )
            self.usage.warnings.append(line)
            log.warning(line)
        return {"unmatched": unmatched} if unmatched else {}

    def _verdict(self, asked: Comparison) -> Verdict:
        content, turned = _content(asked.messages, asked.first, asked.second)
        swapped = content_id(prompt_id(asked.messages), asked.second, asked.first)
        places = ((_NAMED + asked.id, False), (_NAMED + swapped, True), (content, turned))
        known = [(self._labels.pairs[pair], turn) for pair, turn in places if pair in self._labels.pairs]
        self._seen.update(pair for pair, _ in places if pair in self._labels.pairs)
        self._asked += 1
        self._matched += bool(known)
        principle = asked.principle.name if asked.principle else None
        self._names.add(principle or "no principle")
        for name in dict.fromkeys((principle, None)):
            found = [of[name].turned(turn) for of, turn in known if name in of]
            if found:
                self._found += 1
                if any(not _agree(found[0], other) for other in found[1:]):
                    rows = " and ".join(_short(row.where) for row in found)
                    raise UserError(f"{self._path}: {rows} contradict one another on one pair and principle")
                return self._of(asked, found[0])
        return Verdict.invalid(asked.id, self.name, "not in the file")

    def _of(self, asked: Comparison, row: Row) -> Verdict:
        if row.p is None:
            return Verdict.invalid(asked.id, self.name, row.reason or "invalid in the file")
        return Verdict(asked.id, row.p, row.bias or 0.0, True, self.name)


def read(path: Path, most: int | None = None) -> VerdictRows:
    """The rows of the file at `path`, or the first `most` of them.

    Raises:
        UserError: a row is wrong, named by its line; or two rows contradict one another.
    """
    labels = VerdictRows()
    for where, row in islice(read_rows(path), most):
        _check(row, where)
        labels.add(row, where)
    if not labels.pairs:
        raise UserError(f"feedback.path={str(path)!r}: the file holds no verdict")
    return labels


def label_problems(path: Path) -> Iterator[str]:
    """What is wrong with the first rows of a file of verdicts: at most one line."""
    try:
        read(path, most=5_000)
    except UserError as error:
        reason = str(error)
        yield reason if reason.startswith("feedback.path") else f"feedback.path: {reason}"


def _check(row: Mapping[str, Any], where: str) -> None:
    for key in row:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}.{suggest(key, KEYS)} Known: {', '.join(KEYS)}")
    if "p_first" not in row:
        raise UserError(f"{where}: no 'p_first', the probability in [0, 1] that the first response is better (or null)")
    for key, kind, low, high in (("p_first", "a number from 0 to 1", 0, 1), ("bias", "a number", -1e9, 1e9)):
        value = row.get(key)
        number_like = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if value is not None and not number_like:
            raise UserError(f"{where}: {key}={str(value)[:40]}; give {kind}, or null")
    for key in ("pair_id", "principle", "reason", "prompt", "first", "second"):
        if not isinstance(row.get(key), str | None):
            raise UserError(f"{where}: {key} must be text, not {str(row[key])[:40]}")


_NAMED = "id:"  # before the name of a pair, so that no content is taken for one


def _pair(row: Mapping[str, Any], where: str) -> tuple[str, bool]:
    """What a row's pair is known by, and whether its responses are in the other order there."""
    if row.get("pair_id") is not None:
        return _NAMED + row["pair_id"], False
    if (row.get("prompt") is None) == (row.get("messages") is None) or None in (row.get("first"), row.get("second")):
        raise UserError(f"{where}: name the pair by 'pair_id', or by 'prompt' (or 'messages'), 'first' and 'second'")
    name = "prompt" if row.get("messages") is None else "messages"
    if name == "messages" and not isinstance(row[name], list):
        raise UserError(f"{where}: messages must be a list of objects with 'role' and 'content'")
    if _plain(row["first"]) == _plain(row["second"]):
        raise UserError(f"{where}: 'first' and 'second' are the same response; they must differ")
    try:
        return _content(read_prompt(row[name], name), row["first"], row["second"])
    except (MalformedRow, UnusableRow) as error:
        raise UserError(f"{where}: {error}") from None


def _content(messages: Iterable[Message], first: str, second: str) -> tuple[str, bool]:
    """A pair by its texts: equal for the swapped one, and whether this one is."""
    low, high = sorted((_plain(first), _plain(second)))
    return content_id([[m["role"], _plain(m["content"])] for m in messages], low, high), _plain(first) != low


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def _agree(one: Row, other: Row) -> bool:
    """Whether two rows about one pair, each in the order that it was turned to, say the same."""
    if one.p is None or other.p is None:
        return one.p is other.p
    return math.isclose(one.p, other.p, abs_tol=1e-9) and (one.bias or 0.0) == (other.bias or 0.0)


def _first(pairs: Mapping[str, Mapping[str | None, Row]]) -> Row:
    return next(iter(next(iter(pairs.values())).values()))


def _short(where: str) -> str:
    return where.rpartition(", ")[2]
