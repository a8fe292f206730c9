"""Strengths of policies from all their comparisons: the Bradley-Terry model with ties of Davidson (1970).

    P(i beats j) : P(j beats i) : P(tie) = π_i : π_j : ν √(π_i π_j)

In logs it is a multinomial logit, so its likelihood has one maximum. Strengths are θ = log π with mean zero;
400/ln 10 · θ is the scale of Elo. Without any tie ν is zero and the model is Bradley and Terry's own (1952).
A pseudo-comparison for each pair that met, shared out evenly, keeps the strength of a policy finite that never lost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from morlaif.evaluation.matrix import WinMatrix
from morlaif.statistics import Array, Interval, bias_corrected, resample_counts
from morlaif.variance import Mean

Met = NDArray[np.bool_]  # (P, P) which pairs were compared
ELO = 400 / math.log(10)  # points for one unit of log-strength


@dataclass(frozen=True)
class Strengths:
    names: tuple[str, ...]
    strength: tuple[Interval, ...]  # θ, mean zero
    tie: float  # ν; 0 where nothing ever tied

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": "davidson",
            "intervals": "bootstrap",
            "names": list(self.names),
            "strength": [theta.as_dict() for theta in self.strength],
            "elo": [ELO * theta.value for theta in self.strength],
            "tie": self.tie,
        }

    def probability(self, first: str, second: str) -> tuple[float, float, float]:
        """Fitted probabilities that `first` wins, ties and loses against `second`."""
        i, j = (self.strength[self.names.index(name)].value for name in (first, second))
        weights = np.array([math.exp((i - j) / 2), self.tie, math.exp((j - i) / 2)])
        win, tie, loss = weights / weights.sum()
        return float(win), float(tie), float(loss)


def strengths(
    matrix: WinMatrix, *, seed: int, resamples: int = 2000, confidence: float = 0.95, prior: float = 1.0
) -> Strengths:
    """With intervals from resamples of the prompts, which all pairs share: verdicts on one prompt are dependent."""
    won, tied, lost = (matrix.outcome > 0.5), (matrix.outcome == 0.5), (matrix.outcome < 0.5)
    wins, ties = matrix.counts()
    theta, tie = fit(wins, ties, prior=prior)
    counts = resample_counts(matrix.outcome.shape[1], seed=seed, resamples=resamples)
    drawn_wins = matrix.square(counts @ won.T, counts @ lost.T)
    drawn_ties = matrix.square(*[counts @ tied.T] * 2)
    draws, _ = fit(drawn_wins, drawn_ties, prior=prior, met=(wins + wins.T + ties) > 0, start=(theta, tie))
    n = int((~np.isnan(matrix.outcome)).any(axis=0).sum())
    made = tuple(bias_corrected(float(t), draws[:, k], n, confidence) for k, t in enumerate(theta))
    return Strengths(matrix.names, made, float(tie))


def pooled(
    names: Sequence[str],
    seeds: Sequence[Mapping[tuple[str, str], Array]],
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
    prior: float = 1.0,
) -> Strengths:
    """From several seeds' outcomes (N,) of the first of two of `names` on the same prompts, all verdicts together.

    The interval adds, in quadrature, the spread of the strengths that each seed has by itself and that of resamples of
    the prompts: what prompts and seeds do together is in both, so it is a little too wide. With one seed it is over the
    prompts, as that of `strengths`.

    Raises:
        ValueError: as `fit`.
    """
    pairs = list(itertools.combinations(names, 2))
    size = len(next(iter(seeds[0].values())))
    nothing = np.full(size, np.nan)
    outcome = np.array([[own.get(pair, nothing) for pair in pairs] for own in seeds])  # (S, M, N)
    if len(seeds) == 1:
        matrix = WinMatrix(tuple(names), outcome[0], np.zeros(outcome[0].shape, dtype=bool))
        return strengths(matrix, seed=seed, resamples=resamples, confidence=confidence, prior=prior)
    square = WinMatrix(tuple(names), outcome[0], np.zeros(outcome[0].shape, dtype=bool)).square
    won, tied, lost = ((outcome > 0.5).sum(0), (outcome == 0.5).sum(0), (outcome < 0.5).sum(0))
    wins, ties = square(won.sum(1), lost.sum(1)), square(*[tied.sum(1)] * 2)
    theta, tie = fit(wins, ties, prior=prior)
    counts = resample_counts(size, seed=seed, resamples=resamples)
    met = (wins + wins.T + ties) > 0
    draws, _ = fit(
        square(counts @ won.T, counts @ lost.T),
        square(*[counts @ tied.T] * 2),
        prior=prior,
        met=met,
        start=(theta, tie),
    )
    whole = outcome[~np.isnan(outcome).all(axis=2).any(axis=1)]  # seeds that have all pairs, so the same origin
    alone = [
        fit(square((o > 0.5).sum(1), (o < 0.5).sum(1)), square(*[(o == 0.5).sum(1)] * 2), prior=prior)[0] for o in whole
    ]
    made = []
    for k, value in enumerate(theta):
        parts = [(float(draws[:, k].var()), size - 1.0)]
        if len(alone) > 1:
            parts.append((float(np.var([one[k] for one in alone], ddof=1)) / len(alone), len(alone) - 1.0))
        made.append(Mean(float(value), tuple(parts), len(alone), size, "seeds and prompts").interval(confidence))
    return Strengths(tuple(names), tuple(made), float(tie))


def fit(
    wins: Array,
    ties: Array,
    *,
    prior: float = 0.0,
    met: Met | None = None,
    start: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Maximum likelihood: θ (…, P) with mean zero and ν (…,), from `wins` and `ties` (…, P, P).

    `prior` pseudo-comparisons are added for each pair in `met` (default: those that have any), a third of them ties
    where there are ties at all. Newton's method, all resamples at once.

    Raises:
        ValueError: the comparisons leave two groups of policies unrelated.
    """
    wins, ties = np.asarray(wins, dtype=float), np.asarray(ties, dtype=float)
    together = wins + np.swapaxes(wins, -1, -2) + ties
    met = np.asarray((together > 0).reshape(-1, *wins.shape[-2:]).any(axis=0)) if met is None else met
    _check_connected(met)
    any_tie = bool((ties > 0).any())
    padded_wins, padded_ties = _with_prior(wins, ties, prior, met)
    size, shape = wins.shape[-1], wins.shape[:-2]
    w, t = padded_wins.reshape(-1, size, size), padded_ties.reshape(-1, size, size)
    theta, eta = np.zeros((len(w), size)), np.full(len(w), 0.0 if any_tie else -math.inf)
    if start is not None:
        theta = np.broadcast_to(start[0], theta.shape).copy()
        eta = np.full(len(w), math.log(float(start[1])) if any_tie else -math.inf)
    scale = 1 + w.sum((1, 2)) + t.sum((1, 2)) / 2
    gauge = np.pad(np.full((size, size), 1.0 / size), (0, 1))  # θ has no origin of its own
    gauge[size, size] = 0.0 if any_tie else 1.0
    for _ in range(200):
        score, information = _score(theta, eta, w, t)
        if (np.abs(score).max(axis=1) < 1e-9 * scale).all():
            break
        step = np.linalg.solve(information + gauge, score[..., None])[..., 0]
        step *= np.minimum(1.0, 1.0 / np.maximum(np.abs(step).max(axis=1), 1e-300))[:, None]
        theta += step[:, :size]
        if any_tie:
            eta += step[:, size]
    if np.ptp(theta, axis=1).max() > 16:  # odds of e^16 for one policy over another: the likelihood rises for ever
        raise ValueError("the strengths have no finite maximum: a policy won or lost every comparison; give a prior")
    theta -= theta.mean(axis=1, keepdims=True)
    return theta.reshape(*shape, size), np.exp(eta).reshape(shape)


def _score(theta: Array, eta: Array, wins: Array, ties: Array) -> tuple[Array, Array]:
    """Gradient (R, P + 1) and information (R, P + 1, P + 1) of the log-likelihood in (θ, log ν).

    With a = (θ_i − θ_j)/2 the three weights are e^a, e^−a and ν: win counts +1 and loss −1 along a.
    """
    a = (theta[:, :, None] - theta[:, None, :]) / 2
    logs = np.stack([a, -a, np.broadcast_to(eta[:, None, None], a.shape)])
    win, loss, tie = np.exp(logs - np.logaddexp.reduce(logs))
    count = wins + np.swapaxes(wins, 1, 2) + ties
    count = count * (1 - np.eye(count.shape[-1]))
    along = win - loss
    pull = wins - np.swapaxes(wins, 1, 2) - count * along  # (R, P, P), antisymmetric
    curve = count * (win + loss - along**2) / 4
    cross = -count * along * tie / 2
    size = theta.shape[1]
    score = np.empty((len(theta), size + 1))
    score[:, :size] = pull.sum(2) / 2
    score[:, size] = (ties - count * tie).sum((1, 2)) / 2  # each pair is counted twice
    information = np.zeros((len(theta), size + 1, size + 1))
    information[:, :size, :size] = -curve
    diagonal = np.arange(size)
    information[:, diagonal, diagonal] += curve.sum(2)
    information[:, :size, size] = information[:, size, :size] = cross.sum(2)
    information[:, size, size] = (count * tie * (1 - tie)).sum((1, 2)) / 2
    return score, information


def _with_prior(wins: Array, ties: Array, prior: float, met: Met) -> tuple[Array, Array]:
    off = np.asarray(met, dtype=float) * (1 - np.eye(wins.shape[-1]))
    if not (ties > 0).any():
        return wins + prior / 2 * off, ties
    return wins + prior / 3 * off, ties + prior / 3 * off


def _check_connected(met: Met) -> None:
    reached, size = {0}, len(met)
    for _ in range(size):
        reached |= {j for i in reached for j in range(size) if met[i][j] or met[j][i]}
    if len(reached) < size:
        apart = sorted(set(range(size)) - reached)
        raise ValueError(f"policies {apart} were never compared with the others, even through a third")
