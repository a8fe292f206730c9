"""Figures of an update, of a sampler and of many objectives: against enumeration, numpy and their own properties."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morlaif.rl import diagnostics
from morlaif.rl.tally import Tally, UpdateTally
from morlaif.scalarize import functions

seeds = st.integers(0, 2**31 - 1)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- an update ---


@given(seeds, st.integers(2, 9))
def test_expectations_over_all_tokens_are_the_divergence_and_the_entropy(seed, size):
    """Each token weighted by its probability under the old policy: no sampling error is left."""
    old, new = drawn(seed, size).log_softmax(0), drawn(seed + 1, size).log_softmax(0)
    entropy = -(old.exp() * old).sum()
    sums = [diagnostics.policy_sums(new[i : i + 1], old[i : i + 1], entropy[None]) for i in range(size)]
    mean = {name: sum(old[i].exp() * sums[i][name] for i in range(size)).item() for name in sums[0]}
    divergence = (old.exp() * (old - new)).sum().item()
    assert math.isclose(mean["ratio"], 1, abs_tol=1e-9)
    assert math.isclose(mean["approx_kl_k1"], divergence, abs_tol=1e-9)
    assert math.isclose(mean["approx_kl_k3"], divergence, abs_tol=1e-9)
    assert math.isclose(mean["entropy"], -(new.exp() * new).sum().item(), abs_tol=1e-9)
    assert all(one["approx_kl_k3"] >= 0 for one in sums)


def test_an_equal_policy_has_no_divergence_and_its_own_entropy():
    logprobs, entropy = -drawn(0, 7).abs(), drawn(1, 7).abs()
    sums = diagnostics.policy_sums(logprobs, logprobs, entropy)
    assert sums["ratio"] == 7 and sums["approx_kl_k1"] == sums["approx_kl_k3"] == sums["step_kl"] == 0
    assert torch.isclose(sums["entropy"], entropy.sum())


@given(seeds, st.integers(2, 40), st.integers(1, 5), st.floats(-100, 100))
def test_explained_variance_of_parts_is_that_of_the_whole(seed, size, parts, mean):
    values, returns = drawn(seed, size), drawn(seed + 1, size) + mean
    whole = (1 - (returns - values).var() / (returns.var() + 1e-8)).item()
    sums = [
        diagnostics.value_sums(v, v, r, None)
        for v, r in zip(values.tensor_split(parts), returns.tensor_split(parts), strict=True)
    ]
    added = {name: sum(one[name].item() for one in sums) for name in sums[0]}
    assert math.isclose(diagnostics.explained_variance(added, size), whole, rel_tol=1e-6, abs_tol=1e-6)


def test_value_clip_counts_the_states_without_a_gradient():
    values = torch.tensor([0.0, 0.5, 0.5, -0.5, 0.1], requires_grad=True)
    old, returns = torch.zeros(5), torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0])
    from morlaif.rl.losses import value_loss

    value_loss(values, old, returns, 0.2).sum().backward()
    still = (values.grad == 0).sum()
    assert diagnostics.value_sums(values, old, returns, 0.2)["value_clipped"] == still == 1
    assert "value_clipped" not in diagnostics.value_sums(values, old, returns, None)


@pytest.mark.slow
@given(st.lists(st.floats(-200, 200), min_size=1, max_size=30))
def test_histogram_is_numpys_and_loses_nothing(numbers):
    found = diagnostics.histogram(torch.tensor(numbers, dtype=torch.float64))
    edges = [-np.inf, *found["edges"][1:-1], np.inf]
    assert found["counts"] == np.histogram(numbers, edges)[0].tolist() and sum(found["counts"]) == len(numbers)
    assert len(found["edges"]) == len(found["counts"]) + 1


# --- the tally ---


def test_updates_epochs_and_step_are_means_over_the_same_tokens():
    tally = Tally()
    for epoch, tokens, total in ((0, 2, 4.0), (0, 6, 6.0), (1, 8, 16.0)):
        update = tally.begin(epoch, tokens, tokens)
        update.add(ratio=torch.tensor(total / 2))
        update.add(ratio=torch.tensor(total / 2))
        update.ratios += [torch.tensor([1.0, 1.0]), torch.tensor([1.0 - 0.1 * epoch, 1.0 + total / 100])]
        update.norms = {"grad_norm": torch.tensor(total)}
    found = UpdateTally.of(tally.seen())
    assert found.lists["updates/ratio_mean"] == [2, 1, 2] and found.lists["epochs/ratio_mean"] == [1.25, 2]
    assert found.step["ratio_mean"] == 26 / 16 and found.lists["epochs/grad_norm"] == [5, 16]
    assert found.step["ratio_max"] == pytest.approx(1.16) and found.lists["epochs/ratio_min"] == pytest.approx([1, 0.9])
    assert found.step["first_ratio_error"] == pytest.approx(0.04)  # of the first update alone


# --- sampler and trainer ---


@given(seeds, st.integers(2, 9))
def test_mismatch_and_weights_by_enumeration(seed, size):
    """All tokens, each as often as the sampler draws it, are a sample without error."""
    sampler, policy = drawn(seed, size).log_softmax(0), drawn(seed + 1, size).log_softmax(0)
    every = torch.ones(1, dtype=torch.bool)
    kl = {"sampler/kl_k1": 0.0, "sampler/kl_k3": 0.0}
    mass = 0.0
    for mine, theirs in zip(policy, sampler, strict=True):
        found = diagnostics.mismatch(mine[None], theirs[None], every)
        kl = {name: value + theirs.exp().item() * found[name] for name, value in kl.items()}
        mass += (theirs.exp() * diagnostics.importance_weights(mine[None], theirs[None], every, math.inf)).item()
    expected = (sampler.exp() * (sampler - policy)).sum().item()
    assert kl == pytest.approx(dict.fromkeys(kl, expected), abs=1e-9) and mass == pytest.approx(1)


def test_weights_are_capped_and_one_where_nothing_is_known():
    policy = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, -1.0, 0.0]])
    table, known = diagnostics.sampler_table([[-1.0, -3.0, -0.5], [-2.0]], policy)
    weights = diagnostics.importance_weights(policy, table, known, 2.0)
    assert torch.allclose(weights, torch.tensor([[1.0, 2.0, math.exp(-0.5)], [2.0, 1.0, 1.0]]))
    found = diagnostics.mismatch(policy, table, known)
    assert found["sampler/ratio_max"] == pytest.approx(math.exp(2)) and found["sampler/gap_max"] == 2
    assert diagnostics.mismatch(policy, *diagnostics.sampler_table([], policy)) == {}


# --- many objectives ---


@given(seeds, st.integers(2, 6), st.sampled_from([1, 2, 4]))
def test_cosines_are_correlations_within_groups(seed, size, group):
    scores = drawn(seed, 8, size)
    found = diagnostics.cosines(diagnostics.centred(scores, group)).numpy()
    rows = scores.numpy().reshape(-1 if group > 1 else 1, group if group > 1 else 8, size)
    rows = (rows - rows.mean(1, keepdims=True)).reshape(8, size)
    expected = (rows.T @ rows) / np.outer(np.linalg.norm(rows, axis=0), np.linalg.norm(rows, axis=0))
    assert np.allclose(found, expected)
    if group == 1:
        assert np.allclose(found, np.corrcoef(scores.numpy(), rowvar=False))


def test_a_principle_without_variance_has_no_cosine():
    gains = diagnostics.centred(torch.tensor([[1.0, 0.1], [-1.0, 0.1], [0.5, 0.1]]), 1)
    found = diagnostics.cosines(gains)
    assert found[0, 0] == pytest.approx(1) and found[0, 1].isnan() and found[1, 1].isnan()
    assert diagnostics.matrix(("a", "b"), found) == {"names": ["a", "b"], "values": [[1.0, None], [None, None]]}


@given(seeds, st.integers(2, 6))
def test_under_a_minimum_the_lowest_decides(seed, size):
    scores = drawn(seed, 20, size)
    slope = diagnostics.slopes(functions.max_min, scores)
    lowest = np.bincount(scores.numpy().argmin(1), minlength=size) / 20
    assert np.allclose(diagnostics.deciding(slope).numpy(), lowest)


@given(seeds, st.integers(3, 9))
def test_under_a_quantile_each_of_the_lowest_has_its_part(seed, size):
    scores = drawn(seed, 20, size)
    slope = diagnostics.slopes(lambda x: functions.lower_quantile(x, fraction=0.4), scores)
    count = max(1, int(0.4 * size + 1e-9))
    among = np.argsort(scores.numpy(), 1)[:, :count]
    assert np.allclose(diagnostics.deciding(slope).numpy(), np.bincount(among.ravel(), minlength=size) / (20 * count))


@given(seeds, st.integers(2, 5))
def test_under_nash_the_slope_is_that_of_finite_differences(seed, size):
    scores, step = drawn(seed, 6, size), 1e-5

    def nash(x):
        return functions.bernoulli_nash(x, root=True)

    moved = [
        (nash(scores + step * unit) - nash(scores - step * unit)) / (2 * step) for unit in torch.eye(size).double()
    ]
    slope = diagnostics.slopes(nash, scores)
    assert torch.allclose(slope, torch.stack(moved, 1), atol=1e-8)
    shares = diagnostics.deciding(slope)
    assert math.isclose(shares.sum(), 1) and (shares > 0).all()


DEGREE_ONE = {
    "linear": functions.linear, "minimum": functions.max_min, "median": functions.max_median,
    "quantile": lambda x: functions.lower_quantile(x, fraction=0.5), "gini": functions.gini,
    "deviation": lambda x: functions.mean_minus_std(x, penalty=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", DEGREE_ONE)
@given(seeds, st.integers(2, 6))
def test_shares_of_the_variance_sum_to_one(name, seed, size):
    scores = drawn(seed, 12, size)
    combine = DEGREE_ONE[name]
    shares = diagnostics.variance_shares(diagnostics.slopes(combine, scores), scores, combine(scores))
    assert math.isclose(shares.sum(), 1, abs_tol=1e-6)


@given(seeds, st.integers(2, 6))
def test_shares_of_a_weighted_sum_are_covariances(seed, size):
    scores, weight = drawn(seed, 12, size), drawn(seed + 1, size).abs() + 0.1
    reward = scores @ weight
    found = diagnostics.variance_shares(weight.expand(12, size), scores, reward)
    for k, share in enumerate(found.tolist()):
        table = np.cov((weight[k] * scores[:, k]).numpy(), reward.numpy())
        assert math.isclose(share, table[0, 1] / table[1, 1], abs_tol=1e-9)


def test_a_function_without_a_gradient_has_no_slopes():
    scores = drawn(0, 5, 3)
    for combine in (
        lambda x: torch.tensor(x.numpy().min(1)),
        lambda x: (x > 0).double().sum(1),
        lambda x: x.detach().sum(1),
    ):
        assert diagnostics.slopes(combine, scores) is None
    assert diagnostics.slopes(lambda x: x.clamp_(min=0).sum(1), scores) is not None  # one that writes into its input


# --- in a step ---


@pytest.mark.slow
def test_a_step_leaves_its_updates_epochs_and_histograms(small):
    config = small.settings(steps=2, epochs=3, minibatches=2, **{"optimizer.learning_rate": 1e-2})
    result = small.trainer(config).run()
    for row, details in zip(result.curve, result.details, strict=True):
        for name in ("approx_kl_k1", "approx_kl_k3", "clip_fraction", "entropy", "grad_norm", "ratio_max",
                     "explained_variance", "value_clip_fraction"):  # fmt: skip
            assert len(details[f"updates/{name}"]) == 6 and len(details[f"epochs/{name}"]) == 3, name
        assert details["updates/approx_kl_k3"][0] == 0 and details["updates/ratio_max"][0] == 1
        assert details["updates/approx_kl_k3"][-1] > 0
        assert row["ratio_max"] == max(details["updates/ratio_max"])
        assert row["grad_norm"] == pytest.approx(np.mean(details["updates/grad_norm"]))
        assert row["policy_loss"] == pytest.approx(np.mean(details["epochs/policy_loss"]))
        assert sum(details["histogram/shaped_reward"]["counts"]) == 12
        assert sum(details["histogram/advantage"]["counts"]) == round(12 * row["length"])


def test_entropy_of_the_first_update_is_that_of_the_step(small):
    run = small.trainer(small.settings(steps=1, epochs=2, minibatches=1, **{"optimizer.learning_rate": 3e-2}))
    row, (first, second) = run.step(0), run.details[0]["updates/entropy"]
    assert first == pytest.approx(row["entropy"], rel=1e-5) and second != pytest.approx(first, rel=1e-4)


@pytest.mark.slow
def test_the_sampler_in_this_process_has_the_trainers_numbers(small):
    """Its log-probabilities, with a cache and padding on the left, beside those of the training forward."""
    row = small.trainer(small.settings(steps=1, importance_cap=5.0, temperature=0.7)).run().curve[0]
    assert row["sampler/gap_max"] < 1e-5 and row["sampler/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert row["sampler/weight"] == pytest.approx(1, abs=1e-5)
    assert not any(name.startswith("sampler/") for name in small.trainer(small.settings(steps=1)).run().curve[0])


@pytest.mark.slow
def test_in_bfloat16_the_sampler_is_compared(small, monkeypatch):
    """How far its rounding is from the training forward's depends on the processor; a sampler whose log-probabilities
    are .25 lower is reported as such: k3 = e^.25 - 1 - .25."""
    run = small.trainer(small.settings(steps=1), autocast=torch.bfloat16)
    assert run.step(0)["sampler/gap_max"] < 0.1
    other = small.trainer(small.settings(steps=1), autocast=torch.bfloat16)
    sample = other.rollout.sample

    def lower(*args, **kwargs):
        rows = sample(*args, **kwargs)
        other.rollout.sampled = [[value - 0.25 for value in row] for row in other.rollout.sampled]
        return rows

    monkeypatch.setattr(other.rollout, "sample", lower)
    row = other.step(0)
    assert row["sampler/gap_max"] == pytest.approx(0.25, abs=0.1)
    assert row["sampler/kl_k3"] == pytest.approx(np.exp(0.25) - 1.25, abs=0.02)


def test_weights_enter_the_loss(small):
    """A cap of a half halves the policy's loss, where sampler and trainer agree, and leaves the critic's."""
    once = {"steps": 1, "epochs": 1, "minibatches": 1}
    whole, half = (small.trainer(small.settings(**once, importance_cap=cap)).run().curve[0] for cap in (None, 0.5))
    assert half["sampler/weight"] == 0.5
    assert half["policy_loss"] == pytest.approx(whole["policy_loss"] / 2) and half["value_loss"] == whole["value_loss"]


@pytest.mark.parametrize("changes", [{}, {"advantage": "grpo", "critic.kind": "none", "samples_per_prompt": 4}])
def test_principles_of_a_step(small, changes):
    config = small.settings(steps=1, **changes)
    (row,) = (result := small.trainer(config).run()).curve
    names = ("early", "different")
    assert sum(row[f"variance_share/{name}"] for name in names) == pytest.approx(1, abs=1e-4)
    assert [row[f"decides/{name}"] for name in names] == pytest.approx([0.5, 0.5])
    table = result.details[0]["cosines/advantage"]
    assert table["names"] == list(names) and table["values"][0][1] == pytest.approx(
        row["advantage_cosine_min"], abs=1e-4
    )
    for a, b in itertools.product(range(2), repeat=2):
        assert table["values"][a][b] == table["values"][b][a]


def test_gradients_of_principles_are_those_of_losses_of_their_own(small):
    """Against a backward pass of a whole loss for each principle, and two principles that are opposed."""
    from morlaif.rl.pulls import gradient_cosines

    config = small.settings(steps=1, micro_batch_size=5, **{"policy.kind": "lora"})
    run = small.trainer(config)
    prompts, responses = run.prompt_ids[:12], [[3 + i, 4 + i % 3, 1] for i in range(12)]
    minibatch = run.cuts.passes(0, list(prompts), responses)[0][0]
    for p in run.models.groups()["policy"]:  # B is zero at the start, and A has no gradient there
        p.data += 0.1 * drawn(p.numel(), *p.shape).float()
    gains = drawn(0, 12, 2).float()
    gains = torch.cat([gains, -gains[:, :1]], 1)
    found = gradient_cosines(run.engine, minibatch, gains, run._autocast())
    assert all(p.grad is None for p in run.models.parameters())  # nothing is left for the update
    rows = []
    for column in gains.unbind(1):
        for part, batch in minibatch.micro:
            logprobs = batch.unpack(run.engine(batch)[0])
            (-(column[part, None] * logprobs).sum()).backward()
        rows.append(torch.cat([p.grad.flatten() for p in run.models.groups()["policy"]]).double().numpy())
        run.models.zero_grad()
    expected = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in rows] for b in rows])
    assert np.allclose(found.numpy(), expected, atol=1e-5) and found[0, 2] == pytest.approx(-1)


@pytest.mark.slow
def test_gradients_of_principles_change_nothing_else(small):
    usual = {"steps": 3, "policy.kind": "lora", "optimizer.learning_rate": 1e-2}
    plain = small.trainer(small.settings(**usual)).run()
    watched = small.trainer(small.settings(**usual, gradient_cosines_every=2)).run()
    assert ["cosines/gradient" in details for details in watched.details] == [True, False, True]
    for a, b in zip(plain.curve, watched.curve, strict=True):
        assert all(a[key] == b[key] for key in a if not key.startswith("seconds"))
    assert {"gradient_cosine/early", "gradient_cosine_min", "gradient_conflicts"} <= watched.curve[2].keys()
    with pytest.raises(ValueError, match=r"gradient_cosines_every.*policy\.kind: lora"):
        small.settings(gradient_cosines_every=1)


@pytest.mark.slow
def test_every_key_is_documented(small):
    """In docs/training.md, in code; a name behind a slash as <principle>, <figure> or <name>."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    known = {name for code in re.findall(r"`([^`]+)`", text) for name in [code]}
    config = small.settings(
        steps=1, eval_prompts=4, importance_cap=2.0, **{"shaping.clip": 2.0, "critic.kind": "separate"}
    )
    result = small.trainer(config, held_out=small.prompts[:4]).run()
    loss = small.trainer(small.settings(steps=1, **{"kl.placement": "loss", "kl.estimator": "k3"})).run()
    controls = {"samples_per_prompt": 2, "learn_from": "best", "target_kl": 1.0, "gradient_weights": "mgda"}
    pulls = small.trainer(
        small.settings(steps=1, gradient_cosines_every=1, **{"policy.kind": "lora"}, **controls)
    ).run()
    rows = (result.curve[0], result.details[0], loss.curve[0], pulls.curve[0], pulls.details[0])
    for key in {key for row in rows for key in row} - {"step"}:
        kind = key.partition("/")[0]
        forms = {key, *(f"{kind}/<{word}>" for word in ("principle", "figure", "name"))}
        assert forms & known, key
