"""What is learnt from: means of verdicts, MODPO's margins, RDO's counts, and where all of them are DPO."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif.dpo.losses import Compared, sigmoid
from morlaif.dpo.pairs import Pairs
from morlaif.dpo.targets import counts, dpo_pairs, margins, mean_target, modpo_pairs
from morlaif.preference.model import Dialogue
from morlaif.preference.pairs import LabelledPairs

NAN = float("nan")
SCORES = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=6)


def labelled(probability) -> LabelledPairs:
    table = torch.tensor(probability, dtype=torch.float64)
    count = len(table)
    first, second = ([Dialogue([3, 4 + i, side], 1) for i in range(count)] for side in (1, 2))
    ids = [str(i) for i in range(count)]
    return LabelledPairs(first, second, table, [0] * table.shape[1], ids, {}, np.zeros((count, 2)))


def losses(pairs: Pairs, moved: torch.Tensor) -> torch.Tensor:
    """(N,) of a policy whose log-ratios of the two sides differ by `moved` (N,)."""
    ones = torch.ones(len(pairs)).double()
    c = Compared(moved.double(), 0 * ones, ones, ones, pairs.target, pairs.margin, pairs.scale, 0.1)
    return (sigmoid(c) * pairs.count).sum(1)


def test_the_mean_is_by_weight_with_what_should_be_less_turned_round():
    p = torch.tensor([[0.9, 0.2, 0.5], [NAN, 0.2, 0.6], [NAN, NAN, 0.7], [NAN, NAN, NAN]], dtype=torch.float64)
    found = mean_target(p, torch.tensor([3.0, -1.0, 0.0]).double())
    assert found[:2].tolist() == pytest.approx([(3 * 0.9 + 0.8) / 4, 0.8])
    assert found[2:].isnan().all()  # a principle that counts nothing is no verdict


def test_pairs_without_a_target_are_left_out():
    pairs = labelled([[0.9], [NAN], [0.5], [0.2]])
    assert dpo_pairs(pairs, torch.ones(1), hard=False).target.flatten().tolist() == [0.9, 0.5, 0.2]
    assert dpo_pairs(pairs, torch.ones(1), hard=True).target.flatten().tolist() == [1.0, 0.0]
    assert [one.ids for one in dpo_pairs(pairs, torch.ones(1), hard=True).chosen] == [[3, 4, 1], [3, 7, 1]]


def test_margins_by_hand():
    difference = torch.tensor([[1.0, 2.0, -4.0]])
    assert margins(difference, torch.tensor([0.5, 0.25, -0.25])).tolist() == [[1.5, 1.5, 1.0]]


@settings(deadline=None, max_examples=40)
@given(scores=SCORES, weight=st.floats(0.1, 5))
def test_modpo_with_one_objective_is_dpo(scores, weight):
    """Whatever its weight and its own preference model's scores are."""
    difference = torch.tensor(scores)[:, :1].double()
    pairs = labelled([[0.1 + 0.8 * i / len(scores)] for i in range(len(scores))])
    moved = torch.linspace(-30, 30, len(scores))
    want = losses(dpo_pairs(pairs, torch.ones(1), hard=False), moved)
    found = modpo_pairs(pairs, [0], torch.tensor([weight]), False, difference)
    torch.testing.assert_close(losses(found, moved), want)
    assert (found.margin == 0).all() and found.scale.tolist() == [1.0]


@settings(deadline=None, max_examples=40)
@given(scores=SCORES, judged=st.sampled_from([[0], [0, 1, 2], [2, 0]]), sign=st.sampled_from([1.0, -1.0]))
def test_the_optimum_of_modpo_is_the_policy_of_the_weighted_sum(scores, judged, sign):
    """Where each verdict is σ of its score's difference and β times the log-ratios' is Σ w_k Δ_k, nothing is left to
    learn: the gradient is 0, by whichever of the principles it is learnt."""
    difference, weight = torch.tensor(scores).double(), torch.tensor([0.5, 0.3 * sign, 0.2], dtype=torch.float64)
    pairs = modpo_pairs(labelled(difference.sigmoid()[:, judged].tolist()), judged, 7 * weight, False, difference)
    moved = ((difference * weight).sum(1) / 0.1).requires_grad_()
    losses(pairs, moved).sum().backward()
    torch.testing.assert_close(moved.grad, torch.zeros_like(moved), atol=1e-9, rtol=0)
    assert pairs.count.sum(1).tolist() == pytest.approx([1.0] * len(pairs))


def test_a_missing_verdict_leaves_the_others_of_its_pair():
    pairs = modpo_pairs(
        labelled([[0.9, NAN], [NAN, NAN], [0.5, 0.3]]), [0, 1], torch.tensor([1.0, 3.0]), True, torch.zeros(3, 2)
    )
    assert pairs.count.tolist() == [[1.0, 0.0], [0.0, 1.0]]  # the second pair has none, the third's first is a tie
    assert pairs.target.tolist() == [[1.0, 0.5], [0.5, 0.0]]


@settings(deadline=None, max_examples=40)
@given(gap=st.floats(1e-3, 50), target=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=7))
def test_rdo_with_equal_differences_is_dpo(gap, target):
    pairs = labelled([[t] for t in target])
    equal = torch.tensor([gap if i % 2 else -gap for i in range(len(target))])
    found = dpo_pairs(pairs, torch.ones(1), False, equal)
    assert torch.equal(found.count, dpo_pairs(pairs, torch.ones(1), False).count)


def test_rdo_counts_a_pair_by_the_size_of_its_difference():
    assert counts(torch.tensor([1.0, -3.0, 2.0]).double()).tolist() == [0.5, 1.5, 1.0]
    assert counts(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    pairs = labelled([[0.9], [NAN], [0.2]])
    found = dpo_pairs(pairs, torch.ones(1), False, torch.tensor([1.0, 100.0, 3.0]))
    assert found.count.flatten().tolist() == [0.5, 1.5]  # of those that are learnt from
    plain = losses(dpo_pairs(pairs, torch.ones(1), False), torch.tensor([5.0, 7.0]))
    torch.testing.assert_close(losses(found, torch.tensor([5.0, 7.0])), plain * torch.tensor([0.5, 1.5]).double())
