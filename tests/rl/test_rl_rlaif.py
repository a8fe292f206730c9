"""REINFORCE with a value baseline on (1 − β) · score − β · KL (Lee et al. 2023), against its formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_ppo import algorithm, llama

from morlaif.rl import learner, losses
from morlaif.rl.advantages import Trajectories, gae

RLAIF = algorithm("rlaif") | {"minibatches": 1}


@pytest.fixture
def seen(small, monkeypatch):
    """What the third step learns from, after two that have moved the policy, and its settings."""
    caught = []
    real = learner.optimize
    monkeypatch.setattr(learner, "optimize", lambda e, x, *rest, **more: caught.append(x) or real(e, x, *rest, **more))
    config = small.settings(**(RLAIF | {"kl.coef": 0.25, "optimizer.learning_rate": 3e-2}))
    small.trainer(config, small.models(config, llama())).run()
    return caught[-1], config


def test_the_reward_is_the_convex_sum_of_score_and_kl(seen):
    x, config = seen
    assert (config.temperature, config.kl.convex, config.lam, config.gamma) == (0.9, True, 1.0, 1.0)
    divergence = ((x.logprobs - x.ref_logprobs) * x.mask).sum(1)
    assert divergence.abs().max() > 0.1
    assert torch.allclose(x.rewards.sum(1), 0.75 * x.reward - 0.25 * divergence, atol=1e-5)


def test_the_advantage_is_what_is_still_to_come_less_the_value(seen):
    x, _ = seen
    to_come = x.rewards.flip(1).cumsum(1).flip(1) * x.mask
    assert x.values.abs().max() > 1e-3
    assert torch.allclose(x.advantages, (to_come - x.values) * x.mask, atol=1e-5)
    assert torch.allclose(x.returns, to_come, atol=1e-5)


def test_the_gradient_is_that_of_reinforce():
    """The mean over responses of Σ_t A_t ∇ log π_t, over the longest that a response may be."""
    rng, lengths, limit = np.random.default_rng(0), np.array([1, 4, 2]), 7
    n = int(lengths.sum())
    logprobs = torch.tensor(rng.normal(-2, 1, n), requires_grad=True)
    gains = torch.tensor(rng.normal(size=n))
    response = torch.tensor(np.repeat(np.arange(3), lengths))
    a = losses.Actions(logprobs, logprobs.detach() + 1, logprobs.detach(), gains, response, 0.2)  # it reads no ratio
    counts = losses.aggregated(torch.tensor(np.repeat(lengths, lengths)).double(), "constant", n, 3, limit)
    (grad,) = torch.autograd.grad((losses.reinforce(a) * counts).sum() / n, logprobs)
    assert torch.allclose(grad, -gains / (3 * limit), atol=1e-12)


def test_on_the_first_pass_ppos_clip_has_the_same_gradient():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    a = losses.Actions(
        logprobs, logprobs.detach(), logprobs.detach(), torch.tensor([0.7, -3.0]), torch.tensor([0, 0]), 0.2
    )
    one, other = (torch.autograd.grad(loss(a).sum(), logprobs)[0] for loss in (losses.reinforce, losses.clip))
    assert torch.allclose(one, other)


def test_with_lambda_one_gae_is_the_return_less_the_value():
    rewards, values = torch.randn(2, 5), torch.randn(2, 5)
    mask = torch.ones(2, 5, dtype=torch.bool)
    found, target = gae(Trajectories(rewards, values, mask, 1, 1.0, 1.0))
    to_come = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(found, to_come - values, atol=1e-5) and torch.allclose(target, to_come, atol=1e-5)


def test_settings_that_the_form_excludes(small):
    for changes, why in [
        ({"epochs": 2}, "second pass"),
        ({"kl.controller": "adaptive"}, "convex"),
        ({"kl.placement": "loss", "kl.estimator": "k2"}, "convex"),
        ({"kl.coef": 1.5}, "negative weight"),
    ]:
        with pytest.raises(ValueError, match=why):
            small.settings(**(RLAIF | changes))
