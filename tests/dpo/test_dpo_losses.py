"""The losses against numbers computed by hand, and what must hold for any."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif.dpo.losses import Compared, ipo, sigmoid
from morlaif.dpo.registry import LOSSES
from morlaif.errors import UserError

NUMBERS = st.floats(-20, 20, width=32)
CHANCES = st.floats(0, 1, width=32)


def compared(chosen, rejected, target=1.0, *, beta=0.1, margin=0.0, scale=1.0, tokens=(1.0, 1.0)) -> Compared:
    """One pair."""

    def table(x):
        return torch.tensor([[x]], dtype=torch.float64)

    one = [x if isinstance(x, torch.Tensor) else torch.tensor([x], dtype=torch.float64) for x in (chosen, rejected)]
    lengths = [torch.tensor([n], dtype=torch.float64) for n in tokens]
    return Compared(*one, *lengths, table(target), table(margin), torch.tensor([scale], dtype=torch.float64), beta)


def test_a_policy_that_is_its_reference_has_a_loss_of_log_2():
    for target in (1.0, 0.7, 0.0):
        assert sigmoid(compared(0.0, 0.0, target)).item() == pytest.approx(math.log(2), abs=1e-12)


def test_values_by_hand():
    # β (2 - -3) = .5: -log σ(.5) = .474077; a target of .7 adds .3 × .5; smoothing of .1 adds .1 × .5
    assert sigmoid(compared(2.0, -3.0)).item() == pytest.approx(0.4740769841801067)
    assert sigmoid(compared(2.0, -3.0, 0.7)).item() == pytest.approx(0.4740769841801067 + 0.3 * 0.5)
    assert sigmoid(compared(2.0, -3.0), label_smoothing=0.1).item() == pytest.approx(0.4740769841801067 + 0.1 * 0.5)
    # (2/4 - -3/2 - .5/.1)² = 9; a target of .6: (2 - .1/.1)² = 1
    assert ipo(compared(2.0, -3.0, tokens=(4, 2))).item() == pytest.approx(9.0)
    assert ipo(compared(2.0, -3.0, 0.6, tokens=(4, 2))).item() == pytest.approx(1.0)
    # MODPO with w = (.25, .75) and a margin .75 × .4: 4 (.5 - .3) = .8
    assert sigmoid(compared(2.0, -3.0, margin=0.3, scale=4.0)).item() == pytest.approx(math.log1p(math.exp(-0.8)))


@settings(deadline=None, max_examples=60)
@given(
    chosen=NUMBERS, rejected=NUMBERS, target=CHANCES, beta=st.floats(0.01, 2), margin=NUMBERS, scale=st.floats(0.1, 9)
)
def test_the_gradient_is_that_of_a_cross_entropy(chosen, rejected, target, beta, margin, scale):
    """d loss / d chosen = β · scale · (σ(logits) - target), and as much the other way for the rejected response."""
    c, r = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (chosen, rejected))
    pair = compared(c, r, target, beta=beta, margin=margin, scale=scale)
    grads = torch.autograd.grad(sigmoid(pair).sum(), [c, r])
    want = beta * scale * (torch.sigmoid(pair.logits).item() - target)
    assert grads[0].item() == pytest.approx(want, abs=1e-9) and grads[1].item() == pytest.approx(-want, abs=1e-9)


@pytest.mark.parametrize("loss", [sigmoid, ipo])
@settings(deadline=None, max_examples=40)
@given(chosen=NUMBERS, rejected=NUMBERS, target=CHANCES)
def test_it_does_not_matter_which_side_comes_first(loss, chosen, rejected, target):
    one = loss(compared(chosen, rejected, target, tokens=(3, 5)))
    other = loss(compared(rejected, chosen, 1 - target, tokens=(5, 3)))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(chosen=NUMBERS, rejected=NUMBERS, target=CHANCES)
def test_a_soft_target_is_the_mean_of_the_two_hard_ones(chosen, rejected, target):
    soft = sigmoid(compared(chosen, rejected, target))
    mean = target * sigmoid(compared(chosen, rejected, 1.0)) + (1 - target) * sigmoid(compared(chosen, rejected, 0.0))
    torch.testing.assert_close(soft, mean, atol=1e-6, rtol=1e-6)


def test_an_unknown_loss_is_an_error_that_names_those_that_are_known(small):
    with pytest.raises(UserError, match=r"no pair_loss 'sigmoyd'.*sigmoid.*ipo"):
        LOSSES.find("sigmoyd")
    with pytest.raises(ValueError, match=r"loss_params\.smoothing"):
        small.settings(loss_params={"smoothing": 0.1})
    with pytest.raises(ValueError, match="label_smoothing"):
        small.settings(loss_params={"label_smoothing": 1.5})
