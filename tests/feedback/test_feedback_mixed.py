"""Labels of a judge and of people on the same pairs: one arm learns from both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from composed import config

from morlaif.feedback.chunks import Verdicts, with_people
from morlaif.feedback.records import Verdict
from morlaif.planning.plan import plan
from morlaif.preference.loss import soft_bradley_terry

NAN = float("nan")


def judged(*p: float | None) -> Verdicts:
    made = [
        Verdict.invalid(str(i), "j", "refusal")
        if x is None
        else Verdict(str(i), x, 0.1, True, "j", 0.4, -0.2, usd=0.01)
        for i, x in enumerate(p)
    ]
    return Verdicts.of("j", made)


def test_both_count_alike_and_either_stands_alone():
    made = with_people(judged(0.8, 0.3, None, None), np.array([0.0, NAN, 1.0, NAN]))
    assert made.p_first[:3] == pytest.approx([0.4, 0.3, 1.0]) and made.valid.tolist() == [True, True, True, False]
    assert made.judge == "j and people" and made.reason[3] == "refusal"
    assert made.bias[0] == 0.1 and made.d_forward[0] == 0.4  # the judge's: people see no order
    assert made.usd.sum() == pytest.approx(0.02)


def test_the_mean_of_two_labels_is_half_of_both_side_by_side():
    """The soft loss is linear in its label: value and gradient."""
    gap = torch.tensor([0.7, -1.2, 2.0], requires_grad=True)
    zero, judge, people = torch.zeros(3), torch.tensor([0.9, 0.4, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    mixed = soft_bradley_terry(gap, zero, (judge + people) / 2).sum()
    union = (soft_bradley_terry(gap, zero, judge) + soft_bradley_terry(gap, zero, people)).sum() / 2
    assert mixed.item() == pytest.approx(union.item(), abs=1e-6)
    assert torch.allclose(*(torch.autograd.grad(loss, gap)[0] for loss in (mixed, union)), atol=1e-6)


@pytest.mark.slow
def test_an_arm_of_mixed_labels_has_one_model_of_its_own():
    units = plan(config("experiment=smoke", "arms.select=[rlaif,rlaif_mixed]")).by_name
    assert {unit.name for unit in units["ppo/rlaif_mixed"].needs} >= {"pm/mixed", "weigh/rlaif_mixed"}
    assert units["feedback/mixed"].reads.people and not units["feedback/single"].reads.people
    assert units["feedback/mixed"].digest != units["feedback/single"].digest
