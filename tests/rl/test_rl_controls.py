"""What bounds, stops, filters and scales the updates of a step, each against an independent version."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_ppo import timeless

from morlaif.rl import losses
from morlaif.rl.losses import Actions

# --- bounds of the ratio ---


def bounded(ratio: float, gain: float, low: float, high: float, dual: float | None) -> float:
    """DAPO's equation 10 and Ye's equation 3, written out for one token."""
    value = min(ratio * gain, max(1 - low, min(1 + high, ratio)) * gain)
    return -(max(value, dual * gain) if dual is not None and gain < 0 else value)


@pytest.mark.parametrize("dual", [None, 1.5, 3.0])
def test_asymmetric_and_dual_clip_by_a_loop(dual):
    """On 1,000 random batches; where a token is beyond the clip, and there alone, it has no gradient."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        low, high = rng.uniform(0.05, 0.4, 2)
        moved, gains = rng.normal(0, 0.8, 9), rng.normal(size=9)
        new = torch.tensor(moved, requires_grad=True)
        zeros = torch.zeros(9, dtype=torch.float64)
        a = Actions(new, zeros, zeros, torch.tensor(gains), torch.zeros(9), low, high, dual)
        found = losses.clip(a)
        expected = [bounded(math.exp(m), g, low, high, dual) for m, g in zip(moved, gains, strict=True)]
        assert np.allclose(found.detach(), expected, atol=1e-12), seed
        (grad,) = torch.autograd.grad(found.sum(), new)
        assert torch.equal(grad == 0, losses.beyond_clip(a)), seed


def test_the_bounds_reach_the_loss(small):
    """Wide ones change nothing; an upper half of nothing, and a tight dual clip, change a step of several updates."""
    config = {"epochs": 4, "minibatches": 1, "optimizer.learning_rate": 0.02, "steps": 1}
    plain = small.trainer(small.settings(**config)).run().curve[0]
    for change, same in (
        ({"clip_range_high": 0.2, "dual_clip": 1e6}, True),
        ({"clip_range_high": 1e-6}, False),
        ({"dual_clip": 1.01}, False),
    ):
        found = small.trainer(small.settings(**config, **change)).run().curve[0]
        assert (found["policy_loss"] == plain["policy_loss"]) is same, change


# --- the stop of a step by KL ---


def test_target_kl_leaves_out_what_follows_the_first_update_beyond_it(small):
    config = {"epochs": 4, "minibatches": 3, "optimizer.learning_rate": 0.01, "steps": 1}
    whole = small.trainer(small.settings(**config)).run()
    kls = whole.details[0]["updates/approx_kl_k3"]
    assert kls[0] == 0 and len(kls) == 12
    target = sorted(kls)[5]
    beyond = next(i for i, kl in enumerate(kls) if kl > target)
    assert 0 < beyond < 10
    found = small.trainer(small.settings(**config, target_kl=target)).run()
    assert found.details[0]["updates/approx_kl_k3"] == kls[: beyond + 1]
    assert found.curve[0]["updates_left_out"] == 11 - beyond
    far = small.trainer(small.settings(**config, target_kl=1e6)).run()
    assert far.curve[0].pop("updates_left_out") == 0
    assert timeless(far.curve) == timeless(whole.curve)


def test_target_kl_never_stops_a_critic_that_learns_alone(small):
    config = small.settings(steps=1, epochs=3, target_kl=1e-9, **{"critic.warmup_steps": 1})
    assert small.trainer(config).run().curve[0]["updates_left_out"] == 0
