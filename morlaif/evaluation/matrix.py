"""Every policy against every other on the same prompts, in both orders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from morlaif.data.records import Message
from morlaif.evaluation.judges import PolicyJudge
from morlaif.statistics import (
    NOTHING,
    Array,
    Interval,
    flipped,
    outcomes,
    percentiles,
    resample_counts,
    wilson,
)


@dataclass(frozen=True)
class WinMatrix:
    """P policies, their M = P(P−1)/2 pairs in the order of `pairs`, N prompts that all pairs share."""

    names: tuple[str, ...]
    outcome: Array  # (M, N) of the first of each pair: win 1, tie ½, loss 0, NaN without a valid verdict
    flip: NDArray[np.bool_]  # (M, N) whether the two orders name different winners

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(itertools.combinations(range(len(self.names)), 2))

    def between(self, first: str, second: str) -> Array:
        """Outcomes (N,) of `first` against `second`; NaN where there is no verdict, ½ of a policy with itself."""
        i, j = self.names.index(first), self.names.index(second)
        if i == j:
            return np.full(self.outcome.shape[1], 0.5)
        found: Array = self.outcome[self.pairs.index((min(i, j), max(i, j)))]
        return found if i < j else 1 - found

    def counts(self) -> tuple[Array, Array]:
        """(wins, ties), each (P, P): prompts on which row beats column, and on which they tie (symmetric)."""
        return self.square((self.outcome > 0.5).sum(1), (self.outcome < 0.5).sum(1)), self.square(
            *[(self.outcome == 0.5).sum(1)] * 2
        )

    def square(self, upper: Array, lower: Array) -> Array:
        """(…, M) values of the pairs, and those seen from the other side, as (…, P, P) with a diagonal of zeros."""
        made = np.zeros((*np.shape(upper)[:-1], len(self.names), len(self.names)))
        i, j = np.array(self.pairs, dtype=int).reshape(-1, 2).T
        made[..., i, j], made[..., j, i] = upper, lower
        return made

    def rates(self, *, seed: int, resamples: int = 2000, confidence: float = 0.95) -> list[list[Interval | None]]:
        """Win rate of row over column, ties as ½, with intervals from resamples of the prompts that all pairs share.

        Where every prompt has the same outcome the bootstrap would claim certainty: then Wilson.
        """
        counts = resample_counts(self.outcome.shape[1], seed=seed, resamples=resamples)
        seen = ~np.isnan(self.outcome)
        with np.errstate(invalid="ignore"):  # a resample may hold no valid verdict on a pair
            draws = (counts @ np.where(seen, self.outcome, 0).T) / (counts @ seen.T)
        rates: list[list[Interval | None]] = [[None] * len(self.names) for _ in self.names]
        for m, (i, j) in enumerate(self.pairs):
            kept = self.outcome[m, seen[m]]
            if kept.size and np.ptp(kept) == 0:
                rate = wilson(float(kept[0]), kept.size, confidence)
            else:
                rate = percentiles(float(kept.mean()), draws[:, m], kept.size, confidence) if kept.size else NOTHING
            rates[i][j], rates[j][i] = rate, Interval(1 - rate.value, 1 - rate.high, 1 - rate.low, rate.n)
        return rates

    def as_dict(self, *, seed: int, resamples: int = 2000, confidence: float = 0.95) -> dict[str, Any]:
        """For JSON: P × P lists, row against column, None on the diagonal and where no verdict is valid."""
        rates = self.rates(seed=seed, resamples=resamples, confidence=confidence)
        wins, ties = self.counts()
        valid = wins + wins.T + ties
        flips = self.square(*[(self.flip & ~np.isnan(self.outcome)).sum(1)] * 2)
        invalid = self.square(*[np.isnan(self.outcome).sum(1)] * 2)

        def shares(count: Array) -> list[list[float | None]]:
            return [
                [None if i == j or not valid[i, j] else float(x / valid[i, j]) for j, x in enumerate(row)]
                for i, row in enumerate(count)
            ]

        return {
            "names": list(self.names),
            "rate": [[rate and rate.as_dict() for rate in row] for row in rates],
            "win": shares(wins),
            "tie": shares(ties),
            "loss": shares(wins.T),
            "flip_rate": shares(flips),
            "invalid": invalid.astype(int).tolist(),
            "prompts": self.outcome.shape[1],
        }


def win_matrix(
    policies: Mapping[str, Sequence[str]],
    prompts: Sequence[list[Message]],
    judge: PolicyJudge,
    wanted: Callable[[str, str], bool] = lambda first, second: True,
) -> WinMatrix:
    """Have `judge` compare the answers of every two of `policies` (by name, in the order of `prompts`) that are
    `wanted`; the others have no verdict."""
    for name, texts in policies.items():
        if len(texts) != len(prompts):
            raise ValueError(f"policy '{name}' has {len(texts)} answers to {len(prompts)} prompts")
    outcome, flip = [], []
    for first, second in itertools.combinations(policies, 2):
        if not wanted(first, second):
            outcome.append(np.full(len(prompts), np.nan))
            flip.append(np.zeros(len(prompts), dtype=bool))
            continue
        verdict = judge.compare(prompts, policies[first], policies[second])
        outcome.append(outcomes(verdict.forward, verdict.backward, verdict.valid))
        flip.append(flipped(verdict.forward, verdict.backward))
    shape = (-1, len(prompts))
    return WinMatrix(tuple(policies), np.array(outcome).reshape(shape), np.array(flip, dtype=bool).reshape(shape))
