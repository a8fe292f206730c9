"""Preference models and objectives on a benchmark of chosen and rejected responses, as RewardBench has it.

The file holds rows of `prompt` (a text, or messages), `chosen`, `rejected` (texts, or messages) and perhaps `subset`. A
model is right where it scores `chosen` higher; equal scores count ½. In RewardBench 2 (2506.01937) both are lists of
texts: a model is right where the best of all is a chosen one, and of several that are equally good the share that was
chosen counts. Its subset "Ties" is scored as a whole: see `ties_score`.

    rows = read_bench(Path("bench.jsonl"))
    evaluate_bench(rows, ["helpfulness"], score, objectives={})
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from morlaif.data.files import find_file, read_rows
from morlaif.data.records import Message
from morlaif.data.rows import MalformedRow, UnusableRow, to_example
from morlaif.data.settings import Columns, Format
from morlaif.errors import UserError
from morlaif.evaluation.results import Bench, BenchAccuracy, Estimate
from morlaif.statistics import Array, Interval, accuracy

COLUMNS = Columns(**{name: name for name in Columns.model_fields})
_ABSENT = (np.nan,) * 3
_RESAMPLES = 500  # of the bootstrap
Score = Callable[[Sequence[list[Message]], Sequence[str]], Array]  # (N, K)


@dataclass(frozen=True, slots=True)
class BenchRow:
    messages: list[Message]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str  # "" where the file names none
    tie: tuple[bool, str] | None = None  # subset "Ties": whether several answers are right, and which question it is

    @property
    def texts(self) -> tuple[str, ...]:
        return self.chosen + self.rejected


def read_bench(path: Path, most: int | None = None) -> list[BenchRow]:
    """The rows of the file, or the first `most` of them; each by its own columns.

    Raises:
        UserError: it is not there, holds no row, or a row is not as it should be: the line, and what would be right.
    """
    path = find_file("eval.rewardbench", str(path))
    rows = []
    for place, row in islice(read_rows(path), most):
        try:
            rows.append(_row(row))
        except (MalformedRow, UnusableRow) as error:
            line = re.sub(r"; data\.columns[^;]*rename (it|them)", "", str(error))
            raise UserError(f"{place}: {line}") from None
    if not rows:
        raise UserError(f"{path}: no rows; each must be an object with prompt, chosen and rejected")
    return rows


def _row(row: Mapping[str, Any]) -> BenchRow:
    """Raises MalformedRow or UnusableRow."""
    subset = row.get("subset")
    if not isinstance(subset, str | None):
        raise MalformedRow(f"'subset' is {str(subset)[:40]}; it must be a text, or left out")
    if isinstance(row.get("chosen"), list) and any(isinstance(text, str) for text in row["chosen"]):
        chosen, rejected = (_listed(row, name) for name in ("chosen", "rejected"))
        if both := set(chosen) & set(rejected):
            raise UnusableRow(f"{min(both)[:40]!r} is both chosen and rejected; a response must be one of them")
        messages = to_example({**row, "chosen": None, "rejected": None}, "prompts", COLUMNS).messages
        return BenchRow(messages, chosen, rejected, subset or "", _tie(row, subset or ""))
    example = to_example(row, _format(row), COLUMNS)
    if example.chosen is None or example.rejected is None:
        raise MalformedRow("a benchmark needs 'chosen' and 'rejected'")
    return BenchRow(example.messages, (example.chosen,), (example.rejected,), subset or "")


def _listed(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    given = row.get(name)
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise MalformedRow(f"'{name}' must be a text or a list of them, one at least, where the other is a list")
    count = row.get("num_correct" if name == "chosen" else "num_incorrect")
    if count is not None and count != len(texts):
        raise MalformedRow(f"'{name}' holds {len(texts)} responses, and the row says that there are {count}")
    return tuple(text.strip() for text in texts)


def _tie(row: Mapping[str, Any], subset: str) -> tuple[bool, str] | None:
    if subset.lower() != "ties":
        return None
    kind, colon, question = str(row.get("id")).partition(":")
    if kind not in ("ref", "tied") or not colon:
        raise MalformedRow(
            f"'id' is {str(row.get('id'))[:40]}; in the subset {subset} it must be ref:<question> where one answer is "
            "right, tied:<question> where several are"
        )
    return kind == "tied", question


def bench_problems(given: str) -> Iterator[str]:
    """What is wrong with the first rows of the benchmark: at most one line."""
    try:
        read_bench(Path(given), most=5_000)
    except UserError as error:
        line = str(error)
        yield line if line.startswith("eval.rewardbench") else f"eval.rewardbench: {line}"


def _format(row: Mapping[str, Any]) -> Format:
    """Whole dialogues without a prompt beside them (HH-RLHF), or pairs."""
    whole = row.get("prompt") is None and row.get("chosen") is not None and row.get("rejected") is not None
    return "dialogues" if whole and isinstance(row["chosen"], str | list) and "instruction" not in row else "pairs"


def score_bench(rows: Sequence[BenchRow], score: Score) -> Array:
    """(M, K) scores of all responses, row after row, in each the chosen ones first."""
    return score([row.messages for row in rows for _ in row.texts], [text for row in rows for text in row.texts])


def bench_accuracy(rows: Sequence[BenchRow], scores: Array, confidence: float = 0.95) -> BenchAccuracy:
    """From `scores` (M,) as `score_bench` gives them: accuracy over all rows and by subset, and the plain mean over
    subsets, which RewardBench reports. Of the subset "Ties" the score counts, over all rows its accuracy."""
    ends = np.cumsum([len(row.texts) for row in rows])
    own = np.split(np.asarray(scores, dtype=float), ends[:-1])  # of each row
    right = np.array([_right(row, values) for row, values in zip(rows, own, strict=True)])
    subsets = {}
    for name in dict.fromkeys(row.subset for row in rows):
        which = [i for i, row in enumerate(rows) if row.subset == name]
        if any(rows[i].tie for i in which):
            subsets[name] = _ties([rows[i] for i in which], [own[i] for i in which], confidence)
        else:
            subsets[name] = accuracy(right[which], confidence)
    named = {name: Estimate.of(interval) for name, interval in subsets.items() if name}
    mean = float(np.mean([interval.value for interval in subsets.values()]))
    return BenchAccuracy(Estimate.of(accuracy(right, confidence)), named, mean)


def _right(row: BenchRow, scores: Array) -> float:
    """The share of chosen responses among the best; of a row of "Ties", whether every right answer beats every wrong
    one."""
    chosen, rejected = scores[: len(row.chosen)], scores[len(row.chosen) :]
    if row.tie is not None:
        return float(chosen.min() > rejected.max())
    best = scores == scores.max()
    return float(best[: len(chosen)].sum() / best.sum())


class _Margins(NamedTuple):
    """Of one row of "Ties"."""

    accurate: float
    among: float  # from the worst right answer to the best
    above: float  # from the best wrong answer to the worst right one


def _ties(rows: Sequence[BenchRow], scores: Sequence[Array], confidence: float) -> Interval:
    """`ties_score` with its percentile bootstrap over questions."""
    kinds: dict[bool, dict[str, _Margins]] = {True: {}, False: {}}
    for row, values in zip(rows, scores, strict=True):
        right, wrong = values[: len(row.chosen)], values[len(row.chosen) :]
        several, question = row.tie or (False, "")
        kinds[several][question] = _Margins(
            _right(row, values), float(right.max() - right.min()), float(right.min() - wrong.max())
        )
    questions = list(dict.fromkeys([*kinds[True], *kinds[False]]))
    table = np.array([[*kinds[several].get(q, _ABSENT)] for several in (True, False) for q in questions])
    tied, reference = table.reshape(2, len(questions), 3)
    drawn = np.random.default_rng(0).integers(len(questions), size=(_RESAMPLES, len(questions)))
    found = np.array([ties_score(tied[some], reference[some]) for some in drawn])
    found = found[np.isfinite(found)]
    ends = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2]) if found.size else (np.nan, np.nan)
    return Interval(ties_score(tied, reference), float(ends[0]), float(ends[1]), len(questions))


def ties_score(tied: Array, reference: Array) -> float:
    """The score of RewardBench 2's subset "Ties" for Q questions, each asked in two forms.

    Args:
        tied: (Q, 3) `_Margins` of the form to which several answers are right; NaN where there is none.
        reference: the same of the form to which one is.

    Returns:
        Three tenths each for the accuracy of both forms; two tenths each for how often right answers lie above wrong
        ones by more than they differ from one another, by the tied form's margin and by the smaller of both; and a
        hundredth for how far. NaN where no question has both forms.
    """
    accuracies = [float(np.nanmean(form[:, 0])) if np.isfinite(form[:, 0]).any() else 0.0 for form in (tied, reference)]
    both = np.isfinite(tied[:, 0]) & np.isfinite(reference[:, 0])
    if not both.any():
        return float("nan")
    among, above = tied[both, 1], tied[both, 2]
    hard = np.minimum(above, reference[both, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.nan_to_num(np.tanh(hard / among - 1), nan=0.0)
    preferred, preferred_hard = float((above > among).mean()), float((hard > among).mean())
    return 0.3 * sum(accuracies) + 0.2 * (preferred + preferred_hard) + 0.01 * float(far.mean())


def evaluate_bench(
    rows: Sequence[BenchRow],
    names: Sequence[str],
    score: Score,
    objectives: Mapping[str, Callable[[Array], Array]],
    confidence: float = 0.95,
) -> Bench:
    """Every model, a column of `score` (N, K), and every objective over them, (N, K) -> (N,)."""
    scores = score_bench(rows, score)
    return Bench(
        len(rows),
        models={name: bench_accuracy(rows, scores[:, k], confidence) for k, name in enumerate(names)},
        objectives={name: bench_accuracy(rows, f(scores), confidence) for name, f in objectives.items()},
    )
