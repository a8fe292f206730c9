"""How good the labels are, computed on what was asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from morlaif.data.records import Pair
from morlaif.evaluation.statistics import wilson
from morlaif.feedback.arithmetic import inconsistent
from morlaif.feedback.records import Verdict


def quality(
    pairs: Sequence[Pair], verdicts: Sequence[Verdict], truth: Callable[[Pair], float | None] | None = None
) -> dict[str, Any]:
    """Counts and rates of `verdicts` on `pairs` (joined by identity), ready for JSON.

    Shares are {value, low, high, n}, with 95 % Wilson intervals. `truth` tells how much better the first response of a
    pair really is. An undecided verdict counts as half right; pairs that are tied by the standard itself are left out.
    """
    known = {verdict.pair_id: verdict for verdict in verdicts}
    judged = [(pair, known[pair.id]) for pair in pairs]
    valid = [(pair, verdict) for pair, verdict in judged if verdict.valid]
    asked = [v for _, v in valid if v.d_forward is not None and v.d_backward is not None]
    return {
        "n": len(judged),
        "valid": len(valid),
        "validity": _share([float(verdict.valid) for _, verdict in judged]),
        "invalid": dict(Counter(verdict.reason for _, verdict in judged if not verdict.valid)),
        "position_inconsistency": _share([float(inconsistent(v.d_forward, v.d_backward)) for v in asked]),
        "mean_bias": _mean([v.bias for v in asked]),  # log-odds given away to the first place
        "confidence": _mean([abs(verdict.p_first - 0.5) * 2 for _, verdict in valid]),
        "first_preferred": _mean([verdict.p_first for _, verdict in valid]),
        "agreement_human": _agreement([(v.p_first, None if p.human is None else p.human - 0.5) for p, v in valid]),
        "agreement_truth": _agreement([(v.p_first, truth(p)) for p, v in valid]) if truth else None,
    }


def _agreement(rows: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
    """How often p > ½ goes with a positive standard, over the rows whose standard is known and decided."""
    return _share([_side(p - 0.5, gap) for p, gap in rows if gap is not None and abs(gap) > 1e-9])


def _side(lead: float, gap: float) -> float:
    return 0.5 if lead == 0 else float(lead * gap > 0)


def _share(values: Sequence[float]) -> dict[str, Any]:
    return wilson(math.fsum(values) / len(values) if values else math.nan, len(values)).as_dict()


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
