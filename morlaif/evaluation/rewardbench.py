"""Preference models and objectives on a benchmark of chosen and rejected responses, as RewardBench has it.

The file holds one JSON object a line: `prompt` (a text, or messages), `chosen`, `rejected` (texts, or messages) and
perhaps `subset`. A model is right where it scores `chosen` higher; equal scores count ½.

    rows = read_bench(Path("bench.jsonl"))
    evaluate_bench(rows, ["helpfulness"], score, objectives={})
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.data.files import find_file, read_rows
from morlaif.data.records import Message
from morlaif.data.rows import MalformedRow, UnusableRow, to_example
from morlaif.data.settings import Columns, Format
from morlaif.errors import UserError
from morlaif.evaluation.preferences import agreement
from morlaif.evaluation.results import Bench, BenchAccuracy, Estimate
from morlaif.statistics import Array, accuracy

COLUMNS = Columns(**{name: name for name in Columns.model_fields})
KNOWN = ("prompt", "chosen", "rejected", "subset")
Score = Callable[[Sequence[list[Message]], Sequence[str]], Array]  # (N, K)


@dataclass(frozen=True, slots=True)
class BenchRow:
    messages: list[Message]
    chosen: str
    rejected: str
    subset: str  # "" where the file names none


def read_bench(path: Path, most: int | None = None) -> list[BenchRow]:
    """The rows of the file, or the first `most` of them; each by its own columns.

    Raises:
        UserError: it is not there, holds no row, or a row is not as it should be: the line, and what would be right.
    """
    path = find_file("eval.rewardbench", str(path))
    rows = []
    for place, row in islice(read_rows(path), most):
        try:
            example = to_example(row, _format(row), COLUMNS)
        except (MalformedRow, UnusableRow) as error:
            line = re.sub(r"; data\.columns[^;]*rename (it|them)", "", str(error))
            raise UserError(f"{place}: {line}") from None
        subset = row.get("subset")
        if subset is not None and not isinstance(subset, str):
            raise UserError(f"{place}: 'subset' is {str(subset)[:40]}; it must be a text, or left out")
        if example.chosen is None or example.rejected is None:
            raise UserError(f"{place}: a benchmark needs 'chosen' and 'rejected'")
        rows.append(BenchRow(example.messages, example.chosen, example.rejected, subset or ""))
    if not rows:
        raise UserError(f"{path}: no rows; each must be an object with prompt, chosen and rejected")
    return rows


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


def score_bench(rows: Sequence[BenchRow], score: Score) -> tuple[Array, Array]:
    """Scores of the chosen and of the rejected responses."""
    prompts = [row.messages for row in rows]
    return score(prompts, [row.chosen for row in rows]), score(prompts, [row.rejected for row in rows])


def bench_accuracy(rows: Sequence[BenchRow], gap: Array, confidence: float = 0.95) -> BenchAccuracy:
    """From `gap` (N,), score of the chosen minus that of the rejected: accuracy over all rows and by subset, and the
    plain mean over subsets, which RewardBench reports."""
    right = agreement(gap, np.ones(len(rows)))
    subsets = {
        name: accuracy(right[[row.subset == name for row in rows]], confidence)
        for name in dict.fromkeys(row.subset for row in rows)
    }
    named = {name: Estimate.of(interval) for name, interval in subsets.items() if name}
    mean = float(np.mean([interval.value for interval in subsets.values()]))
    return BenchAccuracy(Estimate.of(accuracy(right, confidence)), named, mean)


def evaluate_bench(
    rows: Sequence[BenchRow],
    names: Sequence[str],
    score: Score,
    objectives: Mapping[str, Callable[[Array], Array]],
    confidence: float = 0.95,
) -> Bench:
    """Every model, a column of `score` (N, K), and every objective over them, (N, K) -> (N,)."""
    chosen, rejected = score_bench(rows, score)
    return Bench(
        len(rows),
        models={name: bench_accuracy(rows, (chosen - rejected)[:, k], confidence) for k, name in enumerate(names)},
        objectives={name: bench_accuracy(rows, f(chosen) - f(rejected), confidence) for name, f in objectives.items()},
    )
