"""What bounds, stops, filters and scales the updates of a step, each against an independent version."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from small_ppo import algorithm, timeless, weights

from morlaif.rl import conflict, losses
from morlaif.rl.groups import learnt_from
from morlaif.rl.losses import Actions
from morlaif.rl.optimize import optimize

# --- bounds of the ratio ---


def bounded(ratio: float, gain: float, low: float, high: float, dual: float | None) -> float:
    """DAPO's equation 10 and Ye's equation 3, written out for one token."""
    value = min(ratio * gain, max(1 - low, min(1 + high, ratio)) * gain)
    return -(max(value, dual * gain) if dual is not None and gain < 0 else value)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_bounds_reach_the_loss(small):
    """Wide ones change nothing; an upper half of nothing, and a tight dual clip, change a step of several updates."""
    config = {"epochs": 4, "minibatches": 1, "optimizer.learning_rate": 0.02, "steps": 1}
    plain = small.trainer(small.settings(**config)).run().curve[0]
    for change, same in (
        ({"clip_range_high": 0.2, "dual_clip": 1e4}, True),
        ({"clip_range_high": 1e-6}, False),
        ({"dual_clip": 1.01}, False),
    ):
        found = small.trainer(small.settings(**config, **change)).run().curve[0]
        assert (found["policy_loss"] == plain["policy_loss"]) is same, change


# --- the stop of a step by KL ---


@pytest.mark.slow
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


# --- which responses are learnt from ---


def chosen_by_hand(rewards: list[float], group: int, keep: str, drop: bool) -> list[bool]:
    found = []
    for start in range(0, len(rewards), group):
        own = rewards[start : start + group]
        best, worst = own.index(max(own)), own.index(min(own))
        wanted = {"all": set(range(group)), "best": {best}, "best_and_worst": {best, worst}}[keep]
        found += [i in wanted and not (drop and len(set(own)) == 1) for i in range(group)]
    return found


@pytest.mark.parametrize("keep", ["all", "best", "best_and_worst"])
@pytest.mark.parametrize("drop", [False, True])
def test_the_chosen_of_a_group_by_a_loop(keep, drop):
    for seed in range(200):
        rng = np.random.default_rng(seed)
        group, groups = int(rng.integers(2, 6)), int(rng.integers(1, 5))
        rewards = rng.integers(0, 3, group * groups).astype(np.float32).tolist()  # ties are frequent
        found = learnt_from(torch.tensor(rewards), group, keep, drop)
        assert found.tolist() == chosen_by_hand(rewards, group, keep, drop), (seed, rewards)


def seen_by(monkeypatch) -> list:
    """What each step of a trainer hands to `optimize`: experience and passes."""
    seen: list = []

    def spy(engine, experience, passes, *rest, **more):
        seen.append((experience, passes))
        return optimize(engine, experience, passes, *rest, **more)

    monkeypatch.setattr("morlaif.rl.learner.optimize", spy)
    return seen


def some_level(prompts, responses):
    """The first prompts' responses all get 1, the others a number of their own."""
    level = [prompt[0]["content"].startswith(("w0", "w1 ", "w2 ", "w3 ", "w4 ")) for prompt in prompts]
    return torch.tensor([[1.0 if flat else len(text) / 10] for flat, text in zip(level, responses, strict=True)])


GROUPED = {
    "rollouts": 24, "samples_per_prompt": 4, "critic.kind": "none", "advantage": "dr_grpo", "kl.coef": 0.0, "steps": 1,
    "whiten_advantages": False, "shaping.constant_score": "allow", "epochs": 1, "minibatches": 1,
}  # fmt: skip


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("keep", ["all", "best_and_worst"])
def test_the_loss_is_the_mean_over_what_is_learnt_from(small, monkeypatch, aggregation, keep):
    """At ratio 1 a token's loss is its negative advantage, that of the whole group. 5 of 12 prompts are level."""
    seen = seen_by(monkeypatch)
    config = small.settings(**GROUPED, loss_aggregation=aggregation, learn_from=keep, drop_level_groups=True)
    row = small.trainer(config, names=("a",), reward=some_level, objective=lambda s: s[:, 0]).run().curve[0]
    ((e, passes),) = seen
    rewards = e.shaped.view(-1, 4)
    gains = (rewards - rewards.mean(1, keepdim=True)).flatten().tolist()
    kept = [i for i, yes in enumerate(chosen_by_hand(e.shaped.tolist(), 4, keep, True)) if yes]
    lengths = [len(ids) for ids in e.responses]
    assert 0 < len(kept) < 24 and sorted(i for rows, _ in passes[0][0].micro for i in rows) == kept
    tokens = sum(lengths[i] for i in kept)
    expected = {
        "token": -sum(gains[i] * lengths[i] for i in kept) / tokens,
        "sequence": -sum(gains[i] for i in kept) / len(kept),
        "constant": -sum(gains[i] * lengths[i] for i in kept) / (len(kept) * config.max_new_tokens),
    }
    assert row["policy_loss"] == pytest.approx(expected[aggregation], abs=1e-5)
    assert row["responses_left_out"] == 24 - len(kept)
    assert row["groups_level"] == sum(len(set(own)) == 1 for own in rewards.tolist())


def test_whitening_leaves_level_groups_out(small, monkeypatch):
    seen = seen_by(monkeypatch)
    config = small.settings(**(GROUPED | {"whiten_advantages": True, "drop_level_groups": True}))
    small.trainer(config, names=("a",), reward=some_level, objective=lambda s: s[:, 0]).run()
    ((e, passes),) = seen
    kept = sorted(i for rows, _ in passes[0][0].micro for i in rows)
    gains = e.advantages[kept][:, 0]
    assert gains.std() == pytest.approx(1, abs=0.01) and gains.mean() == pytest.approx(0, abs=1e-5)
    others = [i for i in range(24) if i not in kept]
    assert others and not e.advantages[others].any()


def test_a_step_with_nothing_to_learn_from_makes_no_update(small):
    config = small.settings(**(GROUPED | {"steps": 2, "drop_level_groups": True}))
    made = small.models(config)
    before = weights(made)
    run = small.trainer(
        config, made, names=("a",), reward=lambda p, r: torch.ones(len(r), 1), objective=lambda s: s[:, 0]
    )
    curve = run.run().curve
    assert torch.equal(weights(made), before)
    assert [row["responses_left_out"] for row in curve] == [24, 24] and "policy_loss" not in curve[0]


def test_fewer_rows_than_minibatches(small):
    config = small.settings(**(GROUPED | {"rollouts": 8, "minibatches": 4, "learn_from": "best"}))
    found = small.trainer(config).run()
    assert len(found.details[0]["updates/ratio_mean"]) == 2


# --- rewards scaled by responses' totals ---


@pytest.mark.slow
def test_rewards_are_divided_by_the_deviation_of_all_totals_so_far(small, monkeypatch):
    """Score and KL by the same number, the mean kept."""
    seen = seen_by(monkeypatch)
    config = {"steps": 3, "optimizer.learning_rate": 0.02, "kl.coef": 0.5}
    small.trainer(small.settings(**config, scale_rewards=True)).run()
    totals: list[float] = []
    for e, _ in seen:
        plain = -0.5 * (e.logprobs - e.ref_logprobs) * e.mask
        plain[torch.arange(len(plain)), e.mask.sum(1) - 1] += e.shaped
        totals += plain.sum(1).tolist()
        assert torch.allclose(e.rewards, plain / float(np.std(totals, ddof=1)), atol=1e-5)
    assert (seen[2][0].logprobs - seen[2][0].ref_logprobs).abs().max() > 0.01


# --- weights by gradients ---


def gradients(seed: int) -> np.ndarray:
    """A few vectors, some of them opposed, now and then one of them zero or twice the same."""
    rng = np.random.default_rng(seed)
    count, size = int(rng.integers(2, 6)), int(rng.integers(1, 7))
    found = rng.normal(size=(count, size)) * 10.0 ** rng.integers(-2, 3)
    if seed % 7 == 0:
        found[0] = 0
    if seed % 11 == 0:
        found[-1] = found[0]
    return found


@pytest.mark.slow
def test_mgda_finds_the_point_of_least_norm():
    """Against scipy's SLSQP on the simplex: no shorter vector in the hull; and no gradient points against it."""
    for seed in range(200):
        g = gradients(seed)
        products = torch.tensor(g @ g.T)
        weights = conflict.mgda(products).numpy()
        assert (weights >= 0).all() and weights.sum() == pytest.approx(1)
        scale = float(np.square(g).sum(1).max()) or 1.0
        found = minimize(
            lambda w, g=g, scale=scale: np.square(w @ g).sum() / scale, np.full(len(g), 1 / len(g)),
            jac=lambda w, g=g, scale=scale: 2 * g @ (w @ g) / scale, bounds=[(0, 1)] * len(g), method="SLSQP",
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        own = np.square(weights @ g).sum() / scale
        assert own <= found.fun + 1e-7, seed
        assert (g @ (weights @ g) >= np.square(weights @ g).sum() - 1e-7 * scale).all(), seed


def test_mgda_of_two_is_the_closed_form():
    """Sener & Koltun 2018, algorithm 1."""
    for seed in range(200):
        a, b = np.random.default_rng(seed).normal(size=(2, 3))
        along = np.clip((b - a) @ b / np.square(b - a).sum(), 0, 1)
        weights = conflict.mgda(torch.tensor([[a @ a, a @ b], [a @ b, b @ b]]))
        assert np.allclose(weights, [along, 1 - along], atol=1e-9)


@pytest.mark.slow
def test_pcgrad_is_the_papers_algorithm():
    for seed in range(200):
        g = gradients(seed)
        rng = np.random.default_rng(seed + 1000)
        orders = [rng.permutation(len(g)).tolist() for _ in g]
        direction = np.zeros(g.shape[1])
        for i, order in enumerate(orders):
            own = g[i].copy()
            for j in order:
                if j != i and own @ g[j] < 0:
                    own -= own @ g[j] / (g[j] @ g[j]) * g[j]
            direction += own
        weights = conflict.pcgrad(torch.tensor(g @ g.T), orders).numpy()
        assert (weights >= 0).all()
        assert np.allclose(weights @ g, direction, atol=1e-9 * max(1, np.abs(g).max())), seed


A, B = np.array([1.0, 0.0]), np.array([-1.0, 0.5])  # where each of two losses is zero


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mgda", "pcgrad"])
def test_two_opposed_quadratics_both_fall_until_no_direction_is_better_for_both(how):
    """|x - a|² and 3 |x - b|²: the points that neither leaves without loss to the other are those between a and b."""
    x = np.array([2.0, 3.0])
    losses_of = lambda x: np.array([np.square(x - A).sum(), 3 * np.square(x - B).sum()])  # noqa: E731
    for _ in range(4000):
        g = np.stack([2 * (x - A), 6 * (x - B)])
        products = torch.tensor(g @ g.T)
        weights = conflict.mgda(products) if how == "mgda" else conflict.pcgrad(products, [[1], [0]])
        moved = x - 0.01 * weights.numpy() @ g
        assert (losses_of(moved) <= losses_of(x) + 1e-12).all()
        x = moved
    along = (x - A) @ (B - A) / np.square(B - A).sum()
    assert -1e-9 < along < 1 and np.linalg.norm(x - A - along * (B - A)) < 1e-3


def opposed(prompts, responses):
    """Two principles of which the second wants the opposite of the first, a quarter as strongly, and a third."""
    early = torch.tensor([float(sum(word in ("w1", "w2", "w3") for word in text.split())) for text in responses])
    length = torch.tensor([float(len(text.split())) for text in responses])
    return torch.stack([early, 0.3 * length - 0.25 * early, length], 1)


BY_GRADIENT = {"policy.kind": "lora", "optimizer.learning_rate": 1e-2, "minibatches": 1, "shaping.clip": None}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mgda", "pcgrad"])
def test_the_step_learns_from_the_sum_weighed_by_gradients(small, monkeypatch, how):
    """The weights are those of gradients computed here, and what is paid is the sum that they make."""
    seen = seen_by(monkeypatch)
    config = small.settings(**BY_GRADIENT, gradient_weights=how, steps=2)
    asked: list = []
    original = getattr(conflict, how)

    def spy(*args):
        asked.append((args, original(*args)))
        return asked[-1][1]

    monkeypatch.setattr(conflict, how, spy)
    run = small.trainer(config, names=("a", "b", "c"), reward=opposed, objective=lambda s: s.sum(1)).run()
    for row, (e, _), (args, weights_found) in zip(run.curve, seen, asked, strict=True):
        factors = weights_found.float() * (3 if how == "mgda" else 1)
        assert torch.allclose(e.shaped, e.scores @ factors, atol=1e-4)
        assert torch.allclose(e.reward, e.scores.sum(1))
        assert [row[f"gradient_weight/{name}"] for name in "abc"] == pytest.approx(factors.tolist(), abs=1e-6)
        assert args[0].shape == (3, 3) and torch.equal(args[0], args[0].T)
    # the first step's products: one backward pass for each principle at the weights that it began with
    made, e = small.models(config), seen[0][0]
    gains = (e.scores - e.scores.mean(0)).unbind(1)
    fresh = small.trainer(config, made, names=("a", "b", "c"), reward=opposed, objective=lambda s: s.sum(1))
    g = []
    for column in gains:
        for rows, batch in fresh.cuts.passes(0, e.prompts, e.responses)[0][0].micro:
            (-(column[rows][:, None] * batch.unpack(fresh.engine(batch)[0])).sum()).backward()
        g.append(torch.cat([p.grad.flatten() for p in made.groups()["policy"]]).double())
        made.zero_grad()
    stacked = torch.stack(g)
    assert torch.allclose(asked[0][0][0], stacked @ stacked.T, rtol=1e-3, atol=1e-6)


def test_weights_by_gradients_want_an_adapter(small):
    with pytest.raises(ValueError, match=r"gradient_weights.*policy\.kind: lora, or none"):
        small.settings(gradient_weights="mgda")


# --- all of them at once ---


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "rloo", "grpo", "dr_grpo", "gdpo", "reinforce_pp"])
def test_every_algorithm_takes_every_control(small, preset):
    """Two steps with each of them in force; a curve of finite numbers, and all that they count in it."""
    own = algorithm(preset)
    grouped = own["samples_per_prompt"] > 1
    change = own | BY_GRADIENT | {"steps": 2, "epochs": 3, "target_kl": 1e-7, "clip_range_high": 0.3, "dual_clip": 2.0}
    change |= {"gradient_weights": "pcgrad", "scale_rewards": True, "shaping.constant_score": "allow"}
    if grouped:
        change |= {"learn_from": "best_and_worst", "drop_level_groups": True}
    curve = small.trainer(small.settings(**change)).run().curve
    for row in curve:
        assert all(math.isfinite(value) for value in row.values())
        assert row["updates_left_out"] == 1  # of three: the first begins at a KL of 0, the second does not
        assert row["gradient_weight/early"] >= 1 and row["gradient_weight/different"] >= 1
        assert not grouped or row["responses_left_out"] >= 6
