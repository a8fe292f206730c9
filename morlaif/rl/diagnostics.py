"""What shows whether training is healthy: pure functions of tables that a step has anyway, none of which runs a model.

Sums are over tokens or states and in float64, so that those of micro-batches, updates, epochs and ranks simply add up.
`morlaif.rl.tally` adds them, `morlaif.rl.log` makes rows of them, `morlaif.rl.health` says what is unhealthy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from morlaif.rl import kl

# Fine where normalised numbers lie, coarse beyond; one scale for all runs, so that histograms can be compared.
_HALF = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
EDGES = (*(-edge for edge in reversed(_HALF)), 0.0, *_HALF)
EPS = 1e-8


# --- an update ---


def policy_sums(logprobs: Tensor, old_logprobs: Tensor, entropy: Tensor) -> dict[str, Tensor]:
    """Of N tokens (N,), sampled from the old policy, with its entropy (N,) before each: sums of

    - ratio: ρ = new / old probability. Its mean is 1, whatever the policies.
    - approx_kl_k1, approx_kl_k3: estimators of KL[old || new] at samples of the old policy, -log ρ (unbiased, of either
      sign) and ρ - 1 - log ρ (unbiased, never negative); step_kl: ½ log² ρ, k2 (Schulman 2020).
    - entropy: of the new policy, H_old - (ρ log new - log old), unbiased since E_old[ρ log new] = -H_new and
      E_old[log old] = -H_old, and exact where the policies are equal. It needs no pass over the vocabulary.
    """
    new, old = logprobs.detach().double(), old_logprobs.double()
    ratio = (new - old).exp()
    return {
        "ratio": ratio.sum(),
        "approx_kl_k1": kl.k1(old, new).sum(),
        "approx_kl_k3": kl.k3(old, new).sum(),
        "step_kl": kl.k2(old, new).sum(),
        "entropy": (entropy.double() - (ratio * new - old)).sum(),
    }


def value_sums(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> dict[str, Tensor]:
    """Of M states (M,): moments of returns and of errors, and where the clip of the value decides the loss.

    `value_clipped` counts states whose loss at the clipped value is the larger one, so that they give no gradient.
    """
    new, target = values.detach().double(), returns.double()
    error = target - new
    sums = {
        "return": target.sum(),
        "return_squares": target.square().sum(),
        "error": error.sum(),
        "error_squares": error.square().sum(),
    }
    if clip is not None:
        old = old_values.double()
        near = old + (new - old).clamp(-clip, clip)
        sums["value_clipped"] = ((near - target).square() > error.square()).double().sum()
    return sums


def explained_variance(sums: Mapping[str, float], states: int) -> float:
    """1 - Var[returns - values] / Var[returns] from `value_sums`: 1 for a perfect critic, 0 for a constant one."""

    def variance(name: str) -> float:
        return max(0.0, sums[f"{name}_squares"] - sums[name] ** 2 / states) / max(1, states - 1)

    return 1 - variance("error") / (variance("return") + EPS)


def histogram(x: Tensor, edges: Sequence[float] = EDGES) -> dict[str, list[float]]:
    """Of any shape: how many values lie in [edge, next edge). What lies beyond counts in the outermost bins."""
    inner = torch.tensor(edges[1:-1], dtype=torch.float64)
    bins = torch.bucketize(x.detach().cpu().double().flatten(), inner, right=True)
    return {"edges": list(edges), "counts": bins.bincount(minlength=len(edges) - 1).tolist()}


# --- sampler and trainer ---


def sampler_table(sampled: Sequence[Sequence[float]], like: Tensor) -> tuple[Tensor, Tensor]:
    """The sampler's own log-probabilities, row by row, as (B, T) beside the trainer's, and where they are known."""
    table, known = torch.zeros_like(like), torch.zeros_like(like, dtype=torch.bool)
    for row, logprobs in enumerate(sampled):
        table[row, : len(logprobs)] = torch.tensor(logprobs, dtype=table.dtype)
        known[row, : len(logprobs)] = True
    return table, known


def mismatch(policy: Tensor, sampler: Tensor, known: Tensor) -> dict[str, float]:
    """How far what sampled is from what learns: log-probabilities (B, T) of the tokens where `known`.

    With ρ = policy / sampler: `kl_k1` and `kl_k3` estimate KL[sampler || policy] in nats a token (-log ρ, and
    ρ - 1 - log ρ), `ratio_max` and `ratio_min` are the extremes of ρ. Empty where nothing is known.
    """
    own, new = sampler[known].double(), policy[known].double()
    if not len(own):
        return {}
    moved = new - own
    ratio = moved.exp()
    return {
        "sampler/gap": moved.abs().mean().item(),
        "sampler/gap_max": moved.abs().max().item(),
        "sampler/kl_k1": kl.k1(own, new).mean().item(),
        "sampler/kl_k3": kl.k3(own, new).mean().item(),
        "sampler/ratio_max": ratio.max().item(),
        "sampler/ratio_min": ratio.min().item(),
    }


def importance_weights(policy: Tensor, sampler: Tensor, known: Tensor, cap: float) -> Tensor:
    """(B, T) min(policy / sampler, cap), 1 where the sampler's log-probability is not known.

    Truncated importance sampling (Ionides 2008) of tokens that another numerics drew (Yao et al. 2025, "Your efficient
    RL framework secretly brings you off-policy training"): their gradient is that of the policy that learns, but for
    what the cap cuts off. PPO's own ratio stays new / old policy, both of the trainer.
    """
    return (policy - sampler).exp().clamp(max=cap).where(known, 1.0)


# --- many objectives ---


def centred(scores: Tensor, group: int) -> Tensor:
    """(B, K) less the mean of each group of rows, or with groups of one less that of all: the advantage of a response
    if one principle alone were the reward, its baseline those answers. What rounding leaves of equal scores is 0."""
    groups = scores.unflatten(0, (-1, len(scores) if group == 1 else group))
    gains = (groups - groups.mean(1, keepdim=True)).flatten(0, 1)
    return gains.masked_fill(gains.abs() <= 1e-6 * scores.abs().amax(0), 0)


def cosines(vectors: Tensor) -> Tensor:
    """(N, K) columns -> (K, K) cosines of each two; NaN where a column is zero."""
    return cosines_of(vectors.double().T @ vectors.double())


def cosines_of(products: Tensor) -> Tensor:
    """(K, K) inner products -> cosines, within ±1; NaN for a vector of length zero."""
    length = products.diagonal().clamp(min=0).sqrt()
    return (products / length[:, None] / length).clamp(-1, 1)


def slopes(combine: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor | None:
    """(B, K) ∂ combine(scores) / ∂ score at each row, for a `combine` (B, K) -> (B,) that looks at rows alone.

    None where it has no gradient: a function of the user's may count, or leave torch.
    """
    leaf = scores.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = combine(leaf * 1)  # * 1: a function that writes into its input may not write into a leaf
            (found,) = torch.autograd.grad(value.sum(), leaf)
    except (RuntimeError, TypeError):
        return None
    return found if bool(found.isfinite().all()) else None


def deciding(slope: Tensor) -> Tensor:
    """(B, K) slopes -> (K,): the share of the reward's slope that is each principle's, over the rows that have any.

    A minimum has one slope a row, so this is the share of rows that the principle decides; a mean of the lowest q
    scores gives each of them 1/q, a product or a soft minimum gives every principle its part; a weighted sum gives
    weight / Σ weights, whatever the scores. Sums to 1; NaN where no row has a slope.
    """
    size = slope.abs()
    total = size.sum(1, keepdim=True)
    return (size / total)[total[:, 0] > 0].mean(0)


def variance_shares(slope: Tensor, scores: Tensor, reward: Tensor) -> Tensor:
    """(K,) cov(c_k, R) / var(R) over the rows, with c_k = slope_k · score_k (B, K) and R the reward (B,).

    For a weighted sum c_k is weight · score, and the shares sum to 1. They do for every scalarizer of degree one too
    (minimum, quantiles, ordered averages), since R = Σ c_k there (Euler); for others what is left over is curvature.
    A share below 0 is a principle that runs against the others. NaN for a constant reward.
    """
    parts, whole = (slope * scores).double(), reward.double()
    whole = whole - whole.mean()
    return (parts - parts.mean(0)).T @ whole / whole.square().sum()


def matrix(names: Sequence[str], table: Tensor) -> dict[str, Any]:
    """As JSON: `names` and rows of numbers, None for NaN."""
    rows = [[round(x, 4) if x == x else None for x in row] for row in table.tolist()]
    return {"names": list(names), "values": rows}
