"""Preference models and objectives on a benchmark of chosen and rejected responses, as RewardBench has it.

The file holds one JSON object a line: `prompt` (a text, or messages), `chosen`, `rejected` (texts, or messages) and
perhaps `subset`. A model is right where it scores `chosen` higher; equal scores count ½.

    rows = read_bench(Path("bench.jsonl"))
    evaluate_bench(rows, ["helpfulness"], score, objectives={})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.data.files import read_rows
from morlaif.data.records import Message
from morlaif.data.rows import MalformedRow, UnusableRow, to_example
from morlaif.data.settings import Columns
from morlaif.errors import UserError
from morlaif.evaluation.preferences import agreement
from morlaif.evaluation.statistics import Array, accuracy

COLUMNS = Columns(**{name: name for name in Columns.model_fields})
KNOWN = ("prompt", "chosen", "rejected", "subset")
Score = Callable[[Sequence[list[Message]], Sequence[str]], Array]  # (N, K)


@dataclass(frozen=True, slots=True)
class BenchRow:
    messages: list[Message]
    chosen: str
    rejected: str
    subset: str  # "" where the file names none


def read_bench(path: Path) -> list[BenchRow]:
    """The rows of the file.

    Raises:
        UserError: it is not there, holds no row, or a row is not as it should be: the line, and what would be right.
    """
    if not path.is_file():
        raise UserError(f"eval.rewardbench={str(path)!r}: no such file; give a JSONL with {', '.join(KNOWN)}")
    rows = []
    for place, row in read_rows(path):
        try:
            example = to_example(row, "pairs", COLUMNS)
        except (MalformedRow, UnusableRow) as error:
            told = str(error).replace("; data.columns can rename them", "").replace("; data.columns can rename it", "")
            raise UserError(f"{place}: {told}") from None
        subset = row.get("subset")
        if subset is not None and not isinstance(subset, str):
            raise UserError(f"{place}: 'subset' is {subset!r}; it must be a text, or left out")
        rows.append(BenchRow(example.messages, example.chosen, example.rejected, subset or ""))
    if not rows:
        raise UserError(f"{path}: no rows; each line must be an object with prompt, chosen and rejected")
    return rows


def score_bench(rows: Sequence[BenchRow], score: Score) -> tuple[Array, Array]:
    """Scores of the chosen and of the rejected responses."""
    prompts = [row.messages for row in rows]
    return score(prompts, [row.chosen for row in rows]), score(prompts, [row.rejected for row in rows])


def bench_accuracy(rows: Sequence[BenchRow], gap: Array, confidence: float = 0.95) -> dict[str, Any]:
    """From `gap` (N,), score of the chosen minus that of the rejected: accuracy over all rows and by subset, and the
    plain mean over subsets, which RewardBench reports."""
    right = agreement(gap, np.ones(len(rows)))
    subsets = {
        name: accuracy(right[[row.subset == name for row in rows]], confidence)
        for name in dict.fromkeys(row.subset for row in rows)
    }
    named = {name: interval.as_dict() for name, interval in subsets.items() if name}
    return {
        "all": accuracy(right, confidence).as_dict(),
        "subsets": named,
        "mean": float(np.mean([interval.value for interval in subsets.values()])),
    }


def evaluate_bench(
    rows: Sequence[BenchRow],
    names: Sequence[str],
    score: Score,
    objectives: Mapping[str, Callable[[Array], Array]],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Every model, a column of `score` (N, K), and every objective over them, (N, K) -> (N,)."""
    chosen, rejected = score_bench(rows, score)
    return {
        "rows": len(rows),
        "models": {name: bench_accuracy(rows, (chosen - rejected)[:, k], confidence) for k, name in enumerate(names)},
        "objectives": {
            name: bench_accuracy(rows, f(chosen) - f(rejected), confidence) for name, f in objectives.items()
        },
    }
