"""Every estimator, normalisation, loss and aggregation against a slow version in numpy, on random batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from morlaif.rl import advantages, kl, losses, masked
from morlaif.rl.advantages import Trajectories
from morlaif.rl.losses import Actions

BATCHES = 200
EPS = 1e-4


class Drawn:
    """Rewards and values as lists, a row for each response, and as tables with rubbish in the padding."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rng, self.group, groups = rng, int(rng.integers(2, 5)), int(rng.integers(1, 4))
        self.lengths = rng.integers(1, 8, self.group * groups)
        self.gamma, self.lam = float(rng.random()), float(rng.random())
        size = 10.0 ** rng.integers(-2, 3)
        self.rewards = [rng.normal(rng.normal(), size, n) for n in self.lengths]
        self.values = [rng.normal(0, size, n) for n in self.lengths]
        self.mask = torch.arange(7) < torch.tensor(self.lengths)[:, None]

    def padded(self, rows) -> torch.Tensor:
        table = self.rng.normal(0, 100, (len(rows), 7))
        for place, row in enumerate(rows):
            table[place, : len(row)] = row
        return torch.tensor(table)

    def trajectories(self) -> Trajectories:
        rewards = self.padded(self.rewards) * self.mask  # as `token_rewards` leaves them
        return Trajectories(rewards, self.padded(self.values), self.mask, self.group, self.gamma, self.lam)

    def groups(self):
        totals = [float(sum(row)) for row in self.rewards]
        return [totals[i : i + self.group] for i in range(0, len(totals), self.group)]

    def spread(self, gains):
        return [np.full(n, gain) for n, gain in zip(self.lengths, gains, strict=True)]


def gae(d: Drawn):
    rows = []
    for r, v in zip(d.rewards, d.values, strict=True):
        gain, following, row = 0.0, 0.0, []
        for reward, value in zip(r[::-1], v[::-1], strict=True):
            gain = reward + d.gamma * following - value + d.gamma * d.lam * gain
            following = value
            row.append(gain)
        rows.append(np.array(row[::-1]))
    return rows


def reinforce_pp(d: Drawn):
    return [
        np.array([sum(d.gamma ** (k - t) * r[k] for k in range(t, len(r))) for t in range(len(r))]) for r in d.rewards
    ]


def rloo(d: Drawn):
    gains = [x - (sum(g) - x) / (len(g) - 1) for g in d.groups() for x in g]
    return d.spread(gains)


def grpo(d: Drawn):
    return d.spread([(x - np.mean(g)) / (np.std(g, ddof=1) + EPS) for g in d.groups() for x in g])


def dr_grpo(d: Drawn):
    return d.spread([x - np.mean(g) for g in d.groups() for x in g])


ESTIMATORS = {f.__name__: f for f in (gae, reinforce_pp, rloo, grpo, dr_grpo)} | {"gdpo": dr_grpo}


def padding_is_zero(table: torch.Tensor, mask: torch.Tensor) -> bool:
    return not table[~mask].any()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators(name):
    for seed in range(BATCHES):
        d = Drawn(seed)
        found, targets = getattr(advantages, name)(d.trajectories())
        expected = ESTIMATORS[name](d)
        assert np.allclose(found[d.mask], np.concatenate(expected), rtol=1e-9, atol=1e-9), seed
        assert padding_is_zero(found, d.mask)
        if name == "gae":
            value = np.concatenate([a + v for a, v in zip(expected, d.values, strict=True)])
            assert np.allclose(targets[d.mask], value, rtol=1e-9, atol=1e-9)
        else:
            assert targets is None


@pytest.mark.slow
def test_normalisation_of_each_principle_in_its_group():
    """GDPO: (s_k - mean) / deviation of each of K columns, then the sum, then the responses of the batch."""
    for seed in range(BATCHES):
        d = Drawn(seed)
        count, k = len(d.lengths), int(d.rng.integers(1, 5))
        scores = d.rng.normal(0, 10.0 ** d.rng.integers(-2, 3, k), (count, k))
        expected = np.zeros(count)
        for start in range(0, count, d.group):
            part = scores[start : start + d.group]
            for column in range(k):
                x = part[:, column]
                expected[start : start + d.group] += (x - x.mean()) / (x.std(ddof=1) + EPS)
        whole = (expected - expected.mean()) / (expected.std(ddof=1) + EPS)
        normal = advantages.group_normalized(torch.tensor(scores), d.group).sum(1)
        ones = torch.ones(count, 1, dtype=torch.bool)
        gains, _ = advantages.gdpo(Trajectories(normal[:, None], normal[:, None], ones, d.group, 1.0, 1.0))
        wide = masked.whiten_responses(gains * d.mask, d.mask)
        assert np.allclose(wide[d.mask], np.concatenate(d.spread(whole)), atol=1e-9), seed


def test_whitening_over_tokens_and_over_responses():
    for seed in range(BATCHES):
        d = Drawn(seed)
        table, flat = d.padded(d.rewards), np.concatenate(d.rewards)
        if len(flat) > 1:
            expected = (flat - flat.mean()) / math.sqrt(flat.var(ddof=1) + 1e-8)
            assert np.allclose(masked.whiten(table, d.mask)[d.mask], expected, atol=1e-9), seed
        gains = d.rng.normal(size=len(d.lengths))
        spread = torch.tensor(gains)[:, None] * d.mask
        expected = (gains - gains.mean()) / (gains.std(ddof=1) + EPS)
        found = masked.whiten_responses(spread, d.mask)
        assert np.allclose(found[d.mask], np.concatenate(d.spread(expected)), atol=1e-9), seed
        assert padding_is_zero(found, d.mask)


@pytest.mark.slow
def test_no_sign_of_a_grouped_advantage_turns():
    """Over tokens some do, for the mean of the tokens is that of the long responses."""
    turned = 0
    for seed in range(200):
        d = Drawn(seed)
        for name in ("rloo", "grpo", "dr_grpo", "gdpo"):
            gains, _ = getattr(advantages, name)(d.trajectories())
            clear = d.mask & (gains.abs() > 1e-6)
            assert torch.equal(masked.whiten_responses(gains, d.mask).sign()[clear], gains.sign()[clear])
            turned += int((masked.whiten(gains, d.mask).sign()[clear] != gains.sign()[clear]).sum())
    assert turned > 100


class Moved(Drawn):
    """Log-probabilities before and after an update, of the policy and of the reference."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.old = [-self.rng.exponential(2, n) for n in self.lengths]
        self.new = [o + self.rng.normal(0, 0.3, len(o)) for o in self.old]
        self.gains = [self.rng.normal(size=n) for n in self.lengths]
        self.clip = float(self.rng.uniform(0.05, 0.4))

    def actions(self) -> Actions:
        flat = [torch.tensor(np.concatenate(rows)) for rows in (self.new, self.old, self.old, self.gains)]
        response = torch.tensor(np.repeat(np.arange(len(self.lengths)), self.lengths))
        return Actions(flat[0].requires_grad_(), *flat[1:], response, self.clip)


def surrogate(ratio: float, gain: float, clip: float) -> float:
    return -min(ratio * gain, min(max(ratio, 1 - clip), 1 + clip) * gain)


def token_losses(m: Moved):
    return [
        np.array([surrogate(math.exp(n - o), a, m.clip) for n, o, a in zip(*row, strict=True)])
        for row in zip(m.new, m.old, m.gains, strict=True)
    ]


def sequence_losses(m: Moved):
    return [
        np.full(len(n), surrogate(math.exp(sum(n) - sum(o)), float(np.mean(a)), m.clip))
        for n, o, a in zip(m.new, m.old, m.gains, strict=True)
    ]


MEANS = {
    "token": lambda rows, limit: np.concatenate(rows).mean(),
    "sequence": lambda rows, limit: np.mean([row.mean() for row in rows]),
    "constant": lambda rows, limit: sum(row.sum() for row in rows) / (len(rows) * limit),
}


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "oracle"), [("clip", token_losses), ("clip_sequence", sequence_losses)])
def test_losses_and_their_means(loss, oracle):
    for seed in range(BATCHES):
        m = Moved(seed)
        a, rows = m.actions(), oracle(m)
        found = getattr(losses, loss)(a)
        assert np.allclose(found.detach(), np.concatenate(rows), atol=1e-9), seed
        tokens, limit = int(m.lengths.sum()), int(m.lengths.max()) + 3
        lengths = torch.tensor(np.repeat(m.lengths, m.lengths)).double()
        for how, mean in MEANS.items():
            counts = losses.aggregated(lengths, how, tokens, len(m.lengths), limit)
            assert math.isclose((found * counts).sum().item() / tokens, mean(rows, limit), abs_tol=1e-9), (seed, how)


def test_the_gradient_of_rloo_is_that_of_reinforce():
    """At ratio 1 the mean over responses of -A ∇ log π(y | x), whatever their lengths."""
    m = Moved(3)
    gains = [float(gain.mean()) for gain in m.gains]
    m.new, m.gains = [row.copy() for row in m.old], m.spread(gains)
    a = m.actions()
    lengths = torch.tensor(np.repeat(m.lengths, m.lengths)).double()
    counts = losses.aggregated(lengths, "sequence", len(lengths), len(m.lengths), 9)
    loss = (losses.clip_sequence(a) * counts).sum() / len(lengths)
    (grad,) = torch.autograd.grad(loss, a.logprobs)
    assert np.allclose(grad, -np.concatenate(m.spread(gains)) / len(m.lengths), atol=1e-12)


def test_kl_estimators_and_the_loss_of_the_value():
    for seed in range(BATCHES):
        rng = np.random.default_rng(seed)
        p, q, r = rng.normal(-2, 1, (3, 9))
        k = {"k1": p - q, "k2": (p - q) ** 2 / 2, "k3": np.exp(q - p) - 1 - (q - p)}
        for name, expected in k.items():
            assert np.allclose(kl.ESTIMATORS[name](torch.tensor(p), torch.tensor(q)), expected, atol=1e-12)
        width = float(rng.uniform(0.05, 1))
        near = q + np.clip(p - q, -width, width)
        expected = np.maximum((p - r) ** 2, (near - r) ** 2) / 2
        assert np.allclose(losses.value_loss(*map(torch.tensor, (p, q, r)), width), expected, atol=1e-12)
