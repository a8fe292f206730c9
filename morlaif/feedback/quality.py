"""How good the labels are, computed on what was asked. Pure functions over columns; NaN is unknown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from morlaif.data.records import Pair, content_id
from morlaif.feedback.chunks import Array, Chunk, PairChunks, Verdicts
from morlaif.feedback.records import Verdict
from morlaif.statistics import NOTHING, TIE, Interval, agreement, cohen_kappa, correlation, wilson

RESAMPLES = 2000  # of the bootstrap for κ


def quality(
    pairs: Sequence[Pair], verdicts: Sequence[Verdict], truth: Callable[[Pair], float | None] | None = None
) -> dict[str, Any]:
    """`Tally.measure` of lists, joined by identity. `truth` tells how much better the first response of a pair is."""
    known = {verdict.pair_id: verdict for verdict in verdicts}
    tally = LabelTally()
    tally.add(Chunk.of(pairs), Verdicts.of("", [known[pair.id] for pair in pairs]))
    return tally.measure([truth(pair) for pair in pairs] if truth else None)


class LabelTally:
    """Keeps of verdicts the numbers that measure them, a few bytes each, while verdicts and pairs themselves pass
    by.
    """

    KEPT = ("valid", "p_first", "bias", "d_forward", "d_backward")

    def __init__(self) -> None:
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*self.KEPT, "human", "longer")}
        self.invalid: Counter[str] = Counter()
        self.cost: Counter[str] = Counter()

    def add(self, chunk: Chunk, verdicts: Verdicts) -> None:
        """Count verdicts on the pairs of `chunk`, in its order."""
        for name in self.KEPT:
            self._columns[name].append(getattr(verdicts, name))
        self._columns["human"].append(chunk.human)
        self._columns["longer"].append(chunk.lengths[:, 0] - chunk.lengths[:, 1])  # characters
        self.invalid.update(str(verdicts.reason[row]) for row in np.flatnonzero(~verdicts.valid).tolist())
        self.cost.update(
            {name: float(getattr(verdicts, name).sum()) for name in ("input_tokens", "output_tokens", "usd")}
        )

    def passing(self, pairs: PairChunks, parts: Iterator[Verdicts]) -> Iterator[Verdicts]:
        """Take from `parts` the verdicts on `pairs`, count them and pass them on."""
        for chunk, verdicts in zip(pairs.chunks(), parts, strict=False):
            self.add(chunk, verdicts)
            yield verdicts

    def column(self, name: str) -> Array:
        parts = self._columns[name]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool if name == "valid" else float)

    def measure(self, truth: Sequence[float | None] | None = None) -> dict[str, Any]:
        """Counts and rates, ready for JSON; `truth` has one number for each pair, in order.

        Shares are {value, low, high, n}, with 95 % Wilson intervals. An undecided verdict counts as half right; pairs
        that are tied by the standard itself are left out.
        """
        ok = self.column("valid")
        p, human, longer = (self.column(name)[ok] for name in ("p_first", "human", "longer"))
        forward, backward, bias = (self.column(name)[ok] for name in ("d_forward", "d_backward", "bias"))
        asked = ~np.isnan(forward) & ~np.isnan(backward)
        return {
            "n": int(ok.size),
            "valid": int(ok.sum()),
            "validity": _share(ok.astype(float)),
            "invalid": dict(self.invalid),
            "position_inconsistency": _share((forward[asked] * backward[asked] > 0).astype(float)),
            "mean_bias": _mean(bias[asked]),  # log-odds given away to the first place
            "confidence": _mean(np.abs(p - 0.5) * 2),
            "first_preferred": _mean(p),
            "agreement_human": _agreement(p, human - 0.5),
            "kappa_human": kappa(p, human).as_dict(),
            "agreement_truth": _agreement(p, np.array(truth, dtype=float)[ok]) if truth is not None else None,
            "length_bias": length_bias(p, longer),
            "cost": dict(self.cost),
        }


def kappa(p: Array, q: Array, confidence: float = 0.95) -> Interval:
    """Cohen's κ between the sides that two raters take, where both take one (p, q ≠ ½), with a percentile bootstrap.

    Resampling pairs is drawing the four cells of their table from a multinomial, which needs no loop.
    """
    decided = ~np.isnan(p) & ~np.isnan(q) & (p != 0.5) & (q != 0.5)
    a, b = p[decided] > 0.5, q[decided] > 0.5
    if not a.size:
        return NOTHING
    cells = np.array([np.sum(a & b), np.sum(a & ~b), np.sum(~a & b), np.sum(~a & ~b)])
    drawn = np.random.default_rng(0).multinomial(a.size, cells / a.size, size=RESAMPLES) / a.size
    observed = drawn[:, 0] + drawn[:, 3]
    first, second = drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]
    expected = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (observed - expected) / (1 - expected)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2]) if values.size else (math.nan,) * 2
    return Interval(cohen_kappa(a, b), float(low), float(high), int(a.size))


def length_bias(p: Array, longer: Array) -> dict[str, Any]:
    """How far a judge follows length: `longer` (N,) is by how many characters the first response exceeds the second."""
    unequal = longer != 0
    return {
        "prefers_longer": _agreement(p[unequal], longer[unequal]),
        "correlation": _number(correlation(np.stack([p, longer], axis=1), "spearman")[0, 1]) if p.size else None,
    }


def between(labels: dict[str, NDArray[np.float64]], human: Array) -> dict[str, Any]:
    """How K principles' labels relate: each array (N,) of p_first over the same N pairs, NaN where there is no label.

    Returns the names, the share of pairs on which two principles take the same side, of those on which both take one
    (K, K), the correlation of their labels (K, K), and each principle's κ and agreement with the human label. Ready for
    JSON.
    """
    names = list(labels)
    p = np.stack([labels[name] for name in names], axis=1) if names else np.zeros((len(human), 0))
    same = [[_number(_same_side(p[:, i], p[:, j])) for j in range(len(names))] for i in range(len(names))]
    rows = {
        name: {"agreement": _agreement(labels[name], human - 0.5), "kappa": kappa(labels[name], human).as_dict()}
        for name in names
    }
    linear = correlation(p)
    return {
        "names": names,
        "agreement": same,
        "correlation": [[_number(x) for x in row] for row in linear],
        "mean_correlation": _number(_off_diagonal(linear)),
        "human": rows,
    }


def audit_of(pairs: PairChunks, fraction: float) -> PairChunks | None:
    """About `fraction` of the pairs, chosen by their identity; None if that is nothing."""
    chosen = [pair for pair in pairs if int(content_id("audit", pair.id), 16) < fraction * 2**64] if fraction else []
    return PairChunks.of(chosen) if chosen else None


def halo(together: dict[str, Array], apart: dict[str, Array]) -> dict[str, Any]:
    """What asking all principles in one request does to the labels, from pairs that were asked both ways.

    Each array (N,) holds p_first of one principle over the same N pairs. Returns the share of labels that keep their
    side, the mean absolute difference, and the mean correlation between principles both ways: their difference is
    the halo.
    """
    names = list(together)
    joint, separate = (np.stack([labels[name] for name in names], axis=1) for labels in (together, apart))
    both = ~np.isnan(joint) & ~np.isnan(separate)
    joint, separate = np.where(both, joint, np.nan), np.where(both, separate, np.nan)
    linked = {"joint": _off_diagonal(correlation(joint)), "separate": _off_diagonal(correlation(separate))}
    decided = both & (separate != 0.5)
    return {
        "pairs": int(both.any(axis=1).sum()),
        "same_side": _agreement(joint[decided], separate[decided] - 0.5),
        "mean_difference": _mean(np.abs(joint - separate)[both]),
        "correlation_joint": _number(linked["joint"]),
        "correlation_separate": _number(linked["separate"]),
        "halo": _number(linked["joint"] - linked["separate"]),
    }


def _same_side(a: Array, b: Array) -> float:
    right = agreement(a - 0.5, b - 0.5)[np.abs(a - 0.5) >= TIE]
    right = right[~np.isnan(right)]
    return float(right.mean()) if right.size else math.nan


def _off_diagonal(matrix: Array) -> float:
    values = matrix[~np.eye(len(matrix), dtype=bool)]
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _agreement(p: Array, standard: Array) -> dict[str, Any]:
    """How often p > ½ goes with a positive standard, over the rows whose standard is known and decided."""
    values = agreement(p - 0.5, standard)
    return _share(values[~np.isnan(values)])


def _share(values: Array) -> dict[str, Any]:
    return wilson(float(values.mean()) if values.size else math.nan, int(values.size)).as_dict()


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
