"""Scalarizers: pure functions from K weighted scores to one, over the last axis.

Each takes `rewards` (B, K), the normalised scores already multiplied by their weights (r'_i = w_i r_i, weights
positive: a negative weight has flipped its score before), and returns (B,). All are differentiable, work at B = 1 and
K = 1, and reduce over principles only, so a row's value never depends on the rest of the batch.
Parameters are keyword-only and annotated; the registry checks the YAML against them. A function that has a parameter
`names`, `weights`, `state` or `sft_scores` gets the names of the columns, their weights, what it has learnt, or the
scores of the SFT policy's responses, from the objective.
Each declares its properties (see `morlaif.scalarize.registry.Properties`); the tests prove or refute each declaration.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from morlaif.errors import UserError
from morlaif.scalarize.registry import PrincipleName, State, properties, stateful
from morlaif.scalarize.shares import most, relative
from morlaif.settings import Coefficient, Decay, Number, Part, Positive, Share, Temperature, Whole

if TYPE_CHECKING:
    from torch import Tensor

Principles = Annotated[list[PrincipleName], Field(min_length=1)]


# --- The seven of the paper (arXiv 2406.07295) -------------------------------------------------------------------


@properties(monotone=True, symmetric=True, homogeneous=True, bounds="none")
def linear(rewards: Tensor) -> Tensor:
    """Σ r'_i."""
    return rewards.sum(-1)


@properties(monotone=True, symmetric=True, homogeneous=True, bounds="between")
def max_min(rewards: Tensor) -> Tensor:
    """min r'_i."""
    return rewards.amin(-1)


@properties(monotone=False, symmetric=True, homogeneous=False, bounds="between")
def soft_max_min(rewards: Tensor, *, temperature: Temperature) -> Tensor:
    """Σ softmax(-r'/T)_i r'_i. Falls when a score far above the rest rises: its term leaves the sum."""
    return ((-rewards / temperature).softmax(-1) * rewards).sum(-1)


@properties(monotone=False, symmetric=True, homogeneous=False, bounds="below")
def uncertainty_weighted(rewards: Tensor, *, penalty: Coefficient) -> Tensor:
    """mean - λ·var, the variance over principles divided by K (2310.02743, there over an ensemble's members)."""
    return rewards.mean(-1) - penalty * rewards.var(-1, correction=0)


@properties(monotone=True, symmetric=True, homogeneous=True, bounds="between")
def lower_quantile(rewards: Tensor, *, fraction: Share) -> Tensor:
    """Mean of the lowest ⌊fraction · K⌋ scores, of at least one."""
    # 1e-9: a third of twelve is four, whatever the last digit of the fraction in YAML
    count = max(1, math.floor(fraction * rewards.shape[-1] + 1e-9))
    return rewards.sort(-1).values[..., :count].mean(-1)


@properties(monotone=True, symmetric=True, homogeneous=True, bounds="between")
def max_median(rewards: Tensor) -> Tensor:
    """The median; for even K the mean of the two middle scores."""
    ordered, size = rewards.sort(-1).values, rewards.shape[-1]
    return (ordered[..., (size - 1) // 2] + ordered[..., size // 2]) / 2


@properties(monotone=True, symmetric=True, homogeneous=False, bounds="unit")
def bernoulli_nash(rewards: Tensor, *, root: bool) -> Tensor:
    """(Π u_i)^(1/K) on u = σ(r') in (0, 1); without `root` the bare product.

    This is not the paper's code, which multiplies the signed scores themselves: two bad scores then look good, and
    raising one score lowers the product while another is negative. The squash makes every factor positive and keeps
    the order, so the product has Nash's meaning: utilities above a worst case.
    """
    total = _log_sigmoid(rewards).sum(-1)
    return (total / rewards.shape[-1] if root else total).exp()


# --- Smooth and ordered minima -----------------------------------------------------------------------------------


@properties(monotone=True, symmetric=True, homogeneous=False, bounds="between")
def log_sum_exp(rewards: Tensor, *, temperature: Temperature) -> Tensor:
    """-T log (1/K Σ exp(-r'_i / T)): between the minimum (T → 0) and the mean (T → ∞), monotone throughout."""
    return -temperature * ((-rewards / temperature).logsumexp(-1) - math.log(rewards.shape[-1]))


@properties(monotone=True, symmetric=True, homogeneous=True, bounds="between")
def owa(rewards: Tensor, *, decay: Share) -> Tensor:
    """Ordered weighted average Σ a_k r'_(k), lowest first, a_k ∝ decay^(k-1), Σ a = 1 (Yager 1988)."""
    return _ordered(rewards, [decay**k for k in range(rewards.shape[-1])])


@properties(monotone=True, symmetric=True, homogeneous=True, bounds="between")
def gini(rewards: Tensor) -> Tensor:
    """Gini welfare: ordered average with a_k = (2(K - k) + 1) / K², lowest first (Weymark 1981)."""
    size = rewards.shape[-1]
    return _ordered(rewards, [2 * (size - k) + 1 for k in range(1, size + 1)])


@properties(monotone=True, symmetric=True, homogeneous=True, bounds="between")
def cvar(rewards: Tensor, *, alpha: Share) -> Tensor:
    """Mean of the worst share α; the principle at the edge counts with the fraction that falls inside."""
    worst = alpha * rewards.shape[-1]
    return _ordered(rewards, [min(max(worst - k, 0.0), 1.0) for k in range(rewards.shape[-1])])


@properties(monotone=True, symmetric=True, homogeneous=False, bounds="unit")
def power_mean(rewards: Tensor, *, exponent: Number) -> Tensor:
    """(1/K Σ u_iᵖ)^(1/p) on u = σ(r'); p = 0 is the geometric mean."""
    logs = _log_sigmoid(rewards)
    if exponent == 0:
        return logs.mean(-1).exp()
    return (((exponent * logs).logsumexp(-1) - math.log(rewards.shape[-1])) / exponent).exp()


# --- Distance to an ideal point (smooth form: 2402.19078) -----------------------------------------------------------


@properties(monotone=True, symmetric=True, homogeneous=False, bounds="below")
def tchebycheff(rewards: Tensor, *, ideal: Number, weights: Tensor) -> Tensor:
    """-max_i w_i (z* - r_i), the ideal z* in normalised units. `rewards` holds w_i r_i, so the gap is w_i z* - r'_i."""
    return -(ideal * weights - rewards).amax(-1)


@properties(monotone=True, symmetric=True, homogeneous=False, bounds="below")
def smooth_tchebycheff(rewards: Tensor, *, ideal: Number, temperature: Temperature, weights: Tensor) -> Tensor:
    """-T log Σ exp(w_i (z* - r_i) / T)."""
    return -temperature * ((ideal * weights - rewards) / temperature).logsumexp(-1)


# --- Others ------------------------------------------------------------------------------------------------------


@properties(monotone=True, symmetric=True, homogeneous=False, bounds="nonpositive")
def log_sigmoid_sum(rewards: Tensor, *, reference: Number) -> Tensor:
    """Σ log σ(r'_i - reference) (2402.00742)."""
    return _log_sigmoid(rewards - reference).sum(-1)


@properties(monotone=True, symmetric=False, homogeneous=False, bounds="nonnegative")
def lexicographic(
    rewards: Tensor, *, threshold: Number, order: list[PrincipleName] | None, names: tuple[str, ...]
) -> Tensor:
    """Thresholded lexicographic order as one number (after Gábor et al. 1998).

    The first principle i (from 0, in `order`, the unnamed ones last) that is below the threshold t decides:
    i + 2σ(r'_i - t), which lies in (i, i + 1). With all satisfied the last one still counts: K - 1 + 2σ(r'_last - t).
    """
    first = list(order or ())
    columns = [names.index(name) for name in first] + [i for i, name in enumerate(names) if name not in first]
    excess = rewards[..., columns] - threshold
    satisfied = (excess >= 0).to(rewards.dtype).cumprod(-1).sum(-1)  # how many from the front
    level = satisfied.clamp(max=rewards.shape[-1] - 1).long()
    return level + 2 * excess.gather(-1, level.unsqueeze(-1)).squeeze(-1).sigmoid()


@properties(monotone=False, symmetric=True, homogeneous=True, bounds="below")
def mean_minus_std(rewards: Tensor, *, penalty: Coefficient) -> Tensor:
    """mean - β·std, the deviation over principles with divisor K: an even profile at the price of the mean.

    The form is Markowitz's (1952) and that of a lower confidence bound, but there the deviation is of one quantity over
    its possible values; ensembles of reward models (2310.02743, 2401.00243) take it over members that score one and the
    same thing. Over principles it is ours, and no uncertainty. Monotone only for β ≤ 1/√(K-1).
    """
    variance = rewards.var(-1, correction=0)
    spread = variance > 0  # the root has no gradient at zero
    return rewards.mean(-1) - penalty * variance.where(spread, 1.0).sqrt() * spread


@properties(monotone=True, symmetric=False, homogeneous=False, bounds="below")
def gated(rewards: Tensor, *, gates: Principles, threshold: Number, names: tuple[str, ...]) -> Tensor:
    """The mean of the others (of the gates, where there is nothing else) behind gates.

    Open (every gate ≥ t) it counts whole, shut only where it is negative.
    A shut gate also costs its shortfall, min_g (r'_g - t): the way to open is always uphill.
    """
    inside = [names.index(gate) for gate in gates]
    others = [i for i in range(len(names)) if i not in inside] or inside
    shortfall = (rewards[..., inside].amin(-1) - threshold).clamp(max=0)
    mean = rewards[..., others].mean(-1)
    return shortfall + mean.where(shortfall >= 0, mean.clamp(max=0))


@properties(monotone=True, symmetric=False, homogeneous=True, bounds="between")
def single(rewards: Tensor, *, principle: PrincipleName, names: tuple[str, ...]) -> Tensor:
    """One principle alone."""
    return rewards[..., names.index(principle)]


# --- With a state ------------------------------------------------------------------------------------------------


def _multipliers(
    *,
    constraints: Principles,
    thresholds: list[Number],
    initial: Positive,
    maximum: Positive,
) -> State:
    if len(set(constraints)) != len(constraints):
        raise UserError("scalarizer.params.constraints names a principle twice")
    if len(thresholds) != len(constraints):
        raise UserError(
            f"scalarizer.params.thresholds holds {len(thresholds)} numbers for {len(constraints)} constraints "
            f"({', '.join(constraints)}); give one for each"
        )
    return {"lambda": _started(constraints, initial, maximum)}


def _started(names: Iterable[str], initial: float, maximum: float) -> dict[str, float]:
    if initial > maximum:
        raise UserError(f"scalarizer.params.initial: {initial:g} is above maximum: {maximum:g}")
    return dict.fromkeys(names, float(initial))


def _dual_ascent(
    rewards: Tensor,
    *,
    thresholds: list[Number],
    step_size: Positive,
    maximum: Positive,
    names: tuple[str, ...],
    state: State,
) -> State:
    """ln λ ← ln λ + α λ J for each constraint, J its mean cost over the batch.

    Without a cap a constraint that stays violated would send its λ to infinity in finite time: the growth feeds itself.
    """
    moved = {}
    for (name, multiplier), threshold in zip(state["lambda"].items(), thresholds, strict=True):
        cost = threshold - rewards[:, names.index(name)].double().mean().item()
        moved[name] = _ascended(multiplier, cost, step_size, maximum)
    return {"lambda": moved}


def _ascended(multiplier: float, cost: float, step_size: float, maximum: float) -> float:
    exponent = min(math.log(multiplier) + step_size * multiplier * cost, math.log(maximum))
    return math.exp(max(exponent, -30.0))  # never zero, from where no product comes back


@stateful(start=_multipliers, update=_dual_ascent)
@properties(monotone=True, symmetric=False, homogeneous=False, bounds="below")
def lagrangian(
    rewards: Tensor,
    *,
    objectives: Principles | None,
    constraints: Principles,
    thresholds: list[Number],
    rescale: bool,
    names: tuple[str, ...],
    state: State,
) -> Tensor:
    """r - Σ λ_j c_j (2310.12773): r the mean of the objectives, c_j = threshold_j - r'_j the cost of constraint j.

    `objectives` null: all that are no constraint (the constraints, where there is nothing else). `rescale` divides by
    1 + Σ λ, as that paper's loss does, so that the reward keeps its size against the KL penalty. Each step's scores
    first move the multipliers: ln λ ← ln λ + step_size · λ · mean(c_j), at most `maximum`.
    """
    chosen = [name for name in names if name not in constraints] if objectives is None else objectives
    multipliers = [state["lambda"][name] for name in constraints]
    value = rewards[..., [names.index(name) for name in chosen or constraints]].mean(-1)
    for name, threshold, multiplier in zip(constraints, thresholds, multipliers, strict=True):
        value = value - multiplier * (threshold - rewards[..., names.index(name)])
    return value / (1 + sum(multipliers)) if rescale else value


Levels = Annotated[dict[PrincipleName, Positive], Field(min_length=1)]  # of what the SFT policy has, by principle


def _levels(*, hold: Levels, bar: Part | None, initial: Positive, maximum: Positive) -> State:
    for name, level in hold.items():
        if level >= most(bar):
            raise UserError(f"scalarizer.params.hold.{name}={level:g}: give less than {most(bar):.3g}, which is all")
    return {"lambda": _started(hold, initial, maximum), "level": dict.fromkeys(hold, 1.0)}


def _ascent_by_level(
    rewards: Tensor,
    *,
    hold: Levels,
    bar: Part | None,
    step_size: Positive,
    maximum: Positive,
    names: tuple[str, ...],
    state: State,
    sft_scores: Tensor,
) -> State:
    """As of `lagrangian`, the cost being level - mean ratio to the SFT policy's; "level" is that ratio, for the log."""
    multipliers, levels = {}, {}
    for name, level in hold.items():
        own, sft = (scores[:, names.index(name)].double() for scores in (rewards, sft_scores))
        levels[name] = relative(own, sft, bar).mean().item()
        multipliers[name] = _ascended(state["lambda"][name], level - levels[name], step_size, maximum)
    return {"lambda": multipliers, "level": levels}


@stateful(start=_levels, update=_ascent_by_level)
@properties(monotone=True, symmetric=False, homogeneous=False, bounds="none")
def constrained(
    rewards: Tensor,
    *,
    objectives: Principles | None,
    hold: Levels,
    bar: Part | None,
    rescale: bool,
    names: tuple[str, ...],
    state: State,
    sft_scores: Tensor,
) -> Tensor:
    """r - Σ λ_j (ℓ_j - v_j): the Lagrangian of keeping each principle j of `hold` at ℓ_j times the SFT policy's.

    v_j is `relative`: how often the response beats those of the SFT policy under j, over the 1/2 that these have among
    themselves; with a `bar`, whether it reaches that quantile of theirs, over the share of theirs that do. The rest is
    as in `lagrangian`.
    """
    chosen = [name for name in names if name not in hold] if objectives is None else objectives
    value = rewards[..., [names.index(name) for name in chosen or hold]].mean(-1)
    for name, level in hold.items():
        k = names.index(name)
        value = value - state["lambda"][name] * (level - relative(rewards[..., k], sft_scores[:, k], bar))
    return value / (1 + sum(state["lambda"].values())) if rescale else value


Points = dict[PrincipleName, Annotated[list[tuple[Whole, Coefficient]], Field(min_length=1)]]  # step, factor


def _scheduled(*, points: Points) -> State:
    for name, path in points.items():
        steps = [step for step, _ in path]
        if steps != sorted(set(steps)):
            raise UserError(f"scalarizer.params.points: the steps of '{name}' are {steps}; each must be above the last")
    return {"step": 0, "factor": {name: _between(path, 1) for name, path in points.items()}}


def _next_step(rewards: Tensor, *, points: Points, state: State) -> State:
    step = state["step"] + 1
    return {"step": step, "factor": {name: _between(path, step) for name, path in points.items()}}


def _between(path: list[tuple[int, float]], step: int) -> float:
    """The broken line through the points of `path`, level before the first and after the last."""
    for (low, before), (high, after) in itertools.pairwise(path):
        if low <= step < high:
            return before + (after - before) * (step - low) / (high - low)
    return float(path[0][1] if step < path[0][0] else path[-1][1])


@stateful(start=_scheduled, update=_next_step)
@properties(monotone=True, symmetric=False, homogeneous=True, bounds="none")
def scheduled(rewards: Tensor, *, names: tuple[str, ...], state: State) -> Tensor:
    """Σ f_i(t) r'_i, the factor f_i of a principle piecewise linear in the step t of PPO, the first of which is 1."""
    factors = rewards.new_tensor([state["factor"].get(name, 1.0) for name in names])
    return (rewards * factors).sum(-1)


def _no_gain(*, names: tuple[str, ...]) -> State:
    return {"mean": dict.fromkeys(names, 0.0), "factor": dict.fromkeys(names, 1.0)}


def _steepest(rewards: Tensor, *, below: Positive, memory: Decay, names: tuple[str, ...], state: State) -> State:
    """Running means m_i, and 1 / (m_i + below), of mean 1: the gradient of log Π (m_i + below).

    A mean at or under the reference point counts as one a hundredth of the way to it: there the gradient has no end.
    """
    now = rewards.double().mean(0).tolist()
    means = [memory * state["mean"][name] + (1 - memory) * mean for name, mean in zip(names, now, strict=True)]
    slopes = [1 / max(mean + below, 0.01 * below) for mean in means]
    scale = len(slopes) / sum(slopes)
    factors = [scale * slope for slope in slopes]
    return {"mean": dict(zip(names, means, strict=True)), "factor": dict(zip(names, factors, strict=True))}


@stateful(start=_no_gain, update=_steepest)
@properties(monotone=True, symmetric=True, homogeneous=True, bounds="none")
def hypervolume(rewards: Tensor, *, names: tuple[str, ...], state: State) -> Tensor:
    """Σ f_i r'_i along the gradient of the hypervolume between a reference point and the policy's mean scores.

    The volume that one point dominates is Π (m_i - z_i); the gradient of its logarithm has the weights 1 / (m_i - z_i)
    (Miranda & Von Zuben 2016, arXiv 1602.01164), here scaled to a mean of 1. z_i = -`below`, the SFT policy's mean
    being 0; m_i is a running mean over steps.
    """
    return (rewards * rewards.new_tensor([state["factor"][name] for name in names])).sum(-1)


# --- Shared ------------------------------------------------------------------------------------------------------


def _log_sigmoid(rewards: Tensor) -> Tensor:
    """log σ(r) = -log(1 + e^-r), exact in both tails."""
    return -(-rewards).logaddexp(rewards.new_zeros(()))


def _ordered(rewards: Tensor, weights: list[float]) -> Tensor:
    """Σ a_k r_(k), lowest first, the weights scaled to sum to one."""
    scaled = rewards.new_tensor(weights) / sum(weights)
    return (rewards.sort(-1).values * scaled).sum(-1)
