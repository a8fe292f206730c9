"""Pure functions against hand-computed numbers and slow loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morlaif.rl import advantages, kl, losses, masked, shaping
from morlaif.rl.advantages import Trajectories, gae
from morlaif.rl.losses import Actions
from morlaif.rl.shaping import Moments

seeds = st.integers(0, 2**31 - 1)


def batch(seed: int, rows: int = 4, width: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two random (B, T) tables in float64 and a mask of right-padded rows."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=g)
    tables = torch.randn(2, rows, width, generator=g, dtype=torch.float64)
    return tables[0], tables[1], torch.arange(width) < lengths


# --- advantages ---


def estimated(name, rewards, values=None, mask=None, gamma=1.0, lam=1.0, group=1):
    values = torch.zeros_like(rewards) if values is None else values
    mask = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask
    return getattr(advantages, name)(Trajectories(rewards, values, mask, group, gamma, lam))


def of_responses(name, rewards, group):
    """(B,) of responses with one token each."""
    return estimated(name, rewards[:, None], group=group)[0][:, 0]


def test_gae_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 2.0]])
    values = torch.tensor([[0.5, 1.0, -1.0]])
    gains, returns = estimated("gae", rewards, values, gamma=0.5, lam=0.5)
    # δ = 1 + .5·1 - .5 = 1;  0 - .5 - 1 = -1.5;  2 + 1 = 3
    # A₂ = 3;  A₁ = -1.5 + .25·3 = -.75;  A₀ = 1 - .25·.75 = .8125
    assert torch.allclose(gains, torch.tensor([[0.8125, -0.75, 3.0]]))
    assert torch.allclose(returns, torch.tensor([[1.3125, 0.25, 2.0]]))


@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_sum_of_its_definition(seed, gamma, lam):
    rewards, values, mask = batch(seed)
    gains, returns = estimated("gae", rewards, values, mask, gamma, lam)
    for row, length in enumerate(mask.sum(1).tolist()):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length))
            assert math.isclose(gains[row, t], expected, abs_tol=1e-9)
            assert math.isclose(returns[row, t], expected + v[t], abs_tol=1e-9)
    assert not gains[~mask].any() and not returns[~mask].any()


@given(seeds)
def test_gae_with_lambda_one_is_monte_carlo_and_with_zero_one_step(seed):
    rewards, values, mask = batch(seed)
    monte_carlo, returns = estimated("gae", rewards, values, mask, 1.0, 1.0)
    togo = estimated("reinforce_pp", rewards, mask=mask)[0]
    assert torch.allclose(returns, togo) and torch.allclose(monte_carlo, togo - values * mask)
    one_step, _ = estimated("gae", rewards, values, mask, 1.0, 0.0)
    assert torch.allclose(one_step[:, -1], ((rewards - values) * mask)[:, -1])


@given(seeds, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_lambda_of_the_critic_moves_its_targets_alone(seed, gamma, lam, critic_lam):
    rewards, values, mask = batch(seed)
    own = Trajectories(rewards, values, mask, 1, gamma, lam)
    gains, returns = gae(own, critic_lam=critic_lam)
    assert torch.equal(gains, gae(own)[0]) and torch.equal(returns, gae(replace(own, lam=critic_lam))[1])
    togo = estimated("reinforce_pp", rewards, mask=mask, gamma=gamma)[0]
    assert torch.allclose(gae(own, critic_lam=1.0)[1], togo), "at 1 they are the returns, whatever the values"


@given(seeds)
def test_gae_reads_nothing_of_the_padding(seed):
    rewards, values, mask = batch(seed)
    noise = torch.randn_like(rewards) * ~mask * 100
    for a, b in zip(
        estimated("gae", rewards, values, mask, 0.9, 0.9),
        estimated("gae", rewards + noise, values - noise, mask, 0.9, 0.9),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_rloo_by_hand():
    gains = of_responses("rloo", torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]), 3)
    assert torch.allclose(gains, torch.tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]))


def test_grpo_by_hand():
    gains = of_responses("grpo", torch.tensor([1.0, 3.0, 5.0, 5.0]), 2)
    half = 1 / math.sqrt(2)
    assert torch.allclose(gains, torch.tensor([-half, half, 0.0, 0.0]), atol=1e-3)


def test_gdpo_keeps_apart_what_a_sum_would_merge():
    """Of (0, 1), (0, 2) and (2, 0) the sum ties the last two; normalised apart, they differ."""
    scores = torch.tensor([[0.0, 1.0], [0.0, 2.0], [2.0, 0.0]])
    summed = of_responses("grpo", scores.sum(1), 3)
    apart = of_responses("gdpo", advantages.group_normalized(scores, 3).sum(1), 3)
    assert summed[1] == summed[2] and apart[1] > apart[0]
    assert apart.mean().abs() < 1e-6 and not torch.isclose(apart[1], apart[2])


@given(seeds, st.sampled_from([2, 3, 4]), st.sampled_from(["rloo", "grpo", "gdpo"]))
def test_grouped_advantages_sum_to_zero_and_ignore_a_constant(seed, n, name):
    rewards = torch.randn(3 * n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gains = of_responses(name, rewards, n)
    assert torch.allclose(gains.view(3, n).sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(of_responses(name, rewards + 7, n), gains)


@given(seeds)
def test_rloo_is_the_centred_reward_scaled(seed):
    rewards = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(of_responses("rloo", rewards, 4), of_responses("gdpo", rewards, 4) * 4 / 3)


def test_spread_puts_one_number_on_each_token():
    mask = torch.tensor([[True, True], [True, False]])
    trajectories = Trajectories(mask.float(), mask.float(), mask, 2, 1.0, 1.0)
    assert trajectories.spread(torch.tensor([[2.0, 3.0]])).tolist() == [[2, 2], [3, 0]]


# --- masked statistics ---


@given(seeds)
def test_masked_statistics_are_those_of_the_kept_entries(seed):
    x, _, mask = batch(seed)
    kept = x[mask]
    dirty = x.masked_fill(~mask, float("nan"))
    assert torch.isclose(masked.masked_mean(dirty, mask), kept.mean())
    if len(kept) > 1:
        assert torch.isclose(masked.masked_var(dirty, mask), kept.var())


@given(seeds)
def test_whitening_gives_mean_zero_deviation_one_and_zero_padding(seed):
    x, _, mask = batch(seed, rows=5)
    white = masked.whiten(x * 3 + 5, mask)
    kept = masked.whiten(x * 3 + 5, mask, keep_mean=True)
    assert abs(white[mask].mean()) < 1e-6 and not white[~mask].any() and not kept[~mask].any()
    assert torch.isclose(white[mask].std(), torch.tensor(1.0, dtype=torch.float64), atol=1e-5)
    assert torch.isclose(kept[mask].mean(), (x * 3 + 5)[mask].mean())


def test_whitening_equal_entries_gives_zeros():
    assert not masked.whiten(torch.full((2, 2), 4.0), torch.ones(2, 2, dtype=torch.bool)).any()


# --- KL ---


def test_kl_estimators_by_hand():
    policy, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert kl.k1(policy, reference).item() == 0.5
    assert kl.k2(policy, reference).item() == 0.125
    assert math.isclose(kl.k3(policy, reference).item(), math.exp(-0.5) - 1 + 0.5, rel_tol=1e-6)


@given(seeds)
def test_expected_k1_and_k3_are_the_exact_kl(seed):
    g = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, 7, generator=g, dtype=torch.float64).log_softmax(-1)
    exact = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")
    assert torch.isclose((p.exp() * kl.k1(p, q)).sum(), exact)
    assert torch.isclose((p.exp() * kl.k3(p, q)).sum(), exact)
    assert (kl.k2(p, q) >= 0).all() and (kl.k3(p, q) >= 0).all()


def test_gradient_of_k2_is_that_of_the_kl_and_of_k1_is_zero():
    logits = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.2, 0.1, -0.4], dtype=torch.float64).log_softmax(-1)
    p = logits.log_softmax(-1)
    weights = p.detach().exp()  # the expectation over samples; the sample itself carries no gradient
    exact = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)[0]
    second = torch.autograd.grad((weights * kl.k2(p, q)).sum(), logits, retain_graph=True)[0]
    first = torch.autograd.grad((weights * kl.k1(p, q)).sum(), logits)[0]
    assert torch.allclose(second, exact) and torch.allclose(first, torch.zeros(3, dtype=torch.float64), atol=1e-12)


def test_controllers():
    adaptive = kl.KLController(0.1, 6.0, 10_000)
    assert math.isclose(adaptive.update(12.0, 128).coef, 0.1 * (1 + 0.2 * 128 / 10_000))  # error clipped at .2
    assert math.isclose(adaptive.update(6.6, 100).coef, 0.1 * (1 + 0.1 * 100 / 10_000))
    assert math.isclose(adaptive.update(0.0, 100).coef, 0.1 * (1 - 0.2 * 100 / 10_000))
    assert kl.KLController(0.1, None, 10_000).update(99.0, 128).coef == 0.1


# --- losses ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # no more than 1.2 is rewarded
        (0.5, 2.0, -1.0, False),  # a good token made unlikely is fully charged
        (1.5, -2.0, 3.0, False),  # so is a bad one made likely
        (0.5, -2.0, 1.6, True),
    ],
)
def test_policy_loss_by_hand(ratio, advantage, expected, clipped):
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    actions = Actions(new, torch.zeros(1), torch.zeros(1), torch.tensor([advantage]), torch.zeros(1), 0.2)
    loss = losses.clip(actions)
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)
    assert losses.beyond_clip(actions).item() is clipped
    assert (torch.autograd.grad(loss.sum(), new)[0].item() == 0) is clipped


def test_value_loss_by_hand():
    one = torch.tensor([1.0])
    assert losses.value_loss(one, 0.5 * one, 0 * one, None).item() == 0.5
    # the value moved from .5 to 1, clipped to .7: the worse of (1 - 0)² and (.7 - 0)²
    assert losses.value_loss(one, 0.5 * one, 0 * one, 0.2).item() == 0.5
    # towards the return the clipped one is worse: (.7 - 2)²
    assert math.isclose(losses.value_loss(one, 0.5 * one, 2 * one, 0.2).item(), 0.5 * 1.3**2, rel_tol=1e-6)


# --- reward shaping ---


def test_shape_by_hand(shaping_settings):
    scores, ended, lengths = torch.tensor([20.0, -3.0, 1.0]), torch.tensor([True, True, False]), torch.tensor([2, 3, 4])
    plain = shaping_settings(clip=5.0, missing_eos="none", length_penalty=0.5)
    assert shaping.shape(scores, ended, lengths, plain).tolist() == [4.0, -4.5, -1.0]
    replace = shaping_settings(clip=None, missing_eos="replace", missing_eos_value=-1.0)
    assert shaping.shape(scores, ended, lengths, replace).tolist() == [20.0, -3.0, -1.0]
    subtract = shaping_settings(clip=None, missing_eos="subtract", missing_eos_value=2.0)
    assert shaping.shape(scores, ended, lengths, subtract).tolist() == [20.0, -3.0, -1.0]


def test_score_is_at_the_last_token_and_kl_at_each():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    divergence = torch.tensor([[1.0, 2.0, 3.0], [4.0, 50.0, 60.0]])
    rewards = shaping.token_rewards(torch.tensor([10.0, 20.0]), divergence, 0.1, mask)
    assert torch.allclose(rewards, torch.tensor([[-0.1, -0.2, 9.7], [19.6, 0.0, 0.0]]))


@given(seeds, st.integers(1, 5))
def test_merged_moments_are_those_of_all_scores(seed, parts):
    scores = torch.randn(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 100
    merged = Moments()
    for part in scores.tensor_split(parts):
        merged = merged.merge(Moments.of(part))
    assert merged.count == 20 and math.isclose(merged.mean, scores.mean())
    assert math.isclose(merged.deviation, scores.std(), rel_tol=1e-9)


def test_scaling_modes(shaping_settings):
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([10.0, 14.0])
    root2 = math.sqrt(2)

    def run(mode, center=False):
        rules = shaping_settings(scaling=mode, center=center)
        a, seen = shaping.scale(first, Moments(), rules)
        b, _ = shaping.scale(second, seen, rules)
        return a, b

    assert torch.equal(run("none")[1], second)
    assert torch.allclose(run("batch", True)[1], torch.tensor([-1 / root2, 1 / root2]))
    assert torch.allclose(run("frozen", True)[1], (second - 2) / root2)
    assert torch.allclose(run("running", True)[1], (second - 7) / torch.cat([first, second]).std())
    assert torch.allclose(run("running")[0], first / root2)


def test_equal_scores_are_not_blown_up(shaping_settings):
    scaled, _ = shaping.scale(torch.full((4,), 3.0), Moments(), shaping_settings(scaling="batch", center=True))
    assert not scaled.any()


@pytest.fixture
def shaping_settings():
    from morlaif.rl.settings import ShapingSettings

    usual = {
        "scaling": "none", "center": False, "clip": None, "missing_eos": "none", "missing_eos_value": 0.0,
        "length_penalty": 0.0, "constant_score": "stop", "score_at": "last_token",
    }  # fmt: skip
    return lambda **changes: ShapingSettings(**(usual | changes))
