"""From verdicts and rewards to what is learnt from: targets, MODPO's margins, RDO's counts. Functions of tensors.

N pairs, K principles. A weight (K,) is negative where less of its principle is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from morlaif.dpo.pairs import Pairs, hardened
from morlaif.preference.model import Dialogue
from morlaif.preference.pairs import LabelledPairs
from morlaif.statistics import TIE


def mean_target(probability: Tensor, weight: Tensor) -> Tensor:
    """(N,) mean by |weight| of the (N, K) probabilities that the first response is better, those of a negative weight
    turned round, those without a verdict (NaN) left out; NaN where none is left. Weights (N, K) are each pair's own."""
    turned = torch.where(weight < 0, 1 - probability, probability)
    count = weight.abs() * ~turned.isnan()
    return (turned.nan_to_num() * count).sum(1) / count.sum(1)


def simplex(weight: Tensor) -> Tensor:
    """(K,) over the sum of their sizes, as the weights of MODPO are."""
    return weight / weight.abs().sum()


def margins(difference: Tensor, weight: Tensor) -> Tensor:
    """(N, K) for each principle k what the others say of the pair: Σ w_j Δ_j over j ≠ k.

    MODPO's margin reward of the first response less that of the second (arXiv 2310.03708, eq. 9). `difference` (N, K):
    each principle's score of the first response less that of the second.
    """
    weighed = difference * weight
    return weighed.sum(1, keepdim=True) - weighed


def counts(difference: Tensor) -> Tensor:
    """(N,) sizes of the reward's difference between a pair's responses over their mean, RDO's coefficients (arXiv
    2408.09385); exactly 1 for each pair where all are equal."""
    size = difference.abs()
    return torch.ones_like(size) if bool((size == size[:1]).all()) else size / size.mean()


def dpo_pairs(
    pairs: LabelledPairs,
    weight: Tensor,
    hard: bool,
    difference: Tensor | None = None,
    plain: tuple[Sequence[Dialogue], Sequence[Dialogue]] | None = None,
) -> Pairs:
    """A target each: the mean over principles; the pairs that have none, or no better side among hard ones, left out.

    Args:
        weight: (K,), or (N, K) each pair's own.
        difference: (N,) of the reward between the two responses, by whose size each pair counts (RDO).
        plain: both sides of each pair as the reference reads them, where that is otherwise.
    """
    target = mean_target(pairs.probability, weight.double())
    useless = target.isnan() | (hard & (target - 0.5).abs().lt(TIE))
    kept = (~useless).nonzero().flatten().tolist()
    made = Pairs.of(pairs.first, pairs.second, hardened(target) if hard else target)
    made = replace(made, plain=plain).pick(kept)
    if difference is None or not kept:
        return made
    return made.counted(counts(difference.double()[kept]))


def modpo_pairs(pairs: LabelledPairs, judged: Sequence[int], weight: Tensor, hard: bool, difference: Tensor) -> Pairs:
    """A target for each judged principle, what all others say as its margin; pairs without any are left out.

    The principles' losses count by the size of their weights, 1 together: each has the same optimum, a policy whose
    β log-ratio is Σ w_k s_k but for what a prompt's responses share. The paper takes one of them.

    Args:
        judged: of the R scores, those whose verdicts are learnt from: K places, in the order of `pairs`' columns.
        weight: (R,) of scores in the units in which verdicts are log-odds, not 0 where judged; put on the simplex.
        difference: (N, R) score of the first response less that of the second.
    """
    places = list(judged)
    weight = simplex(weight.double())
    own = weight[places]
    useless = pairs.probability.isnan() | (hard & (pairs.probability - 0.5).abs().lt(TIE))
    count = own.abs().expand(len(pairs), -1).masked_fill(useless, 0.0)
    target = (hardened(pairs.probability) if hard else pairs.probability).nan_to_num(0.5)
    kept = count.sum(1).nonzero().flatten().tolist()
    margin = margins(difference.double(), weight)[:, places]
    share = count / count.sum(1, keepdim=True)
    return Pairs(pairs.first, pairs.second, target, share, margin, 1 / own).pick(kept)
