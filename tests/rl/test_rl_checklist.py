"""Details in which PPO for language models goes wrong silently: one test for each, here or where its room is.

    pad that is EOS              trainer: test_pad_that_is_eos_is_refused; preference: pooling by length
    left padding, positions      forward: test_left_padding_with_explicit_positions_agrees; below, generation
    dropout off                  forward: test_dropout_is_off_even_in_training_mode; below, in the critic
    ratio 1 at first             trainer: test_ratio_is_exactly_one_on_the_first_minibatch; below, at learning rate 0
    KL: k1 in the reward …       settings; below, that the loss pulls
    adaptive target a sum        below
    missing EOS                  mathematics: test_shape_by_hand; below, in a run
    whitening                    mathematics: masked; below, rewards keep their mean; ranks: global
    loss over global tokens      trainer: micro-batches; ranks
    gradient clip 1              trainer: test_gradient_is_clipped_to_its_norm; below, the presets
    value head                   forward: test_the_critic_begins_by_knowing_nothing
    critic from PM or SFT        stages: test_critic_of_its_own and its neighbours
    critic warm-up               trainer: test_critic_warmup_leaves_the_policy
    Adam's epsilon               trainer: test_optimizer_has_the_usual_epsilon; below, the presets
"""  # fmt: skip

from __future__ import annotations

import math

import pytest
import torch
from small_ppo import llama, timeless, weights
from torch import nn

from morlaif.models.generate import generate
from morlaif.presets import options, preset
from morlaif.rl import shaping
from morlaif.rl.critic import adapter_critic
from morlaif.rl.experience import collate
from morlaif.rl.masked import whiten
from morlaif.rl.settings import PPOSettings

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_does_not_see_how_far_a_prompt_is_padded(small, family):
    model = getattr(small, family)().eval()
    noise = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    usual = {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 2}
    prompts = [[5, 6], [7, 8, 9, 10, 11, 12, 13, 14, 15]]
    together = generate(model, small.tokenizer, prompts, noise=noise, **usual)
    alone = [generate(model, small.tokenizer, [p], noise=noise[i : i + 1], **usual)[0] for i, p in enumerate(prompts)]
    assert together == alone


@pytest.mark.parametrize("kind", ["shared", "adapter", "separate"])
def test_no_dropout_is_left_anywhere(small, kind):
    policy = "lora" if kind == "adapter" else "full"
    model = small.gpt2()
    assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    made = small.models(small.settings(**{"critic.kind": kind, "policy.kind": policy}), model)
    assert not any(isinstance(module, nn.Dropout) and module.p > 0 for module in made.modules())


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"policy.kind": "lora", "critic.kind": "adapter"}, {"temperature": 0.7}])
def test_at_learning_rate_zero_every_ratio_stays_one(small, change):
    """Of every update, not only of the first: rows meet in other micro-batches there, so up to rounding."""
    config = small.settings(steps=2, epochs=3, minibatches=2, micro_batch_size=4, **change)
    run = small.trainer(config)
    run._rates = lambda step: [{"policy": 0.0, "critic": 0.0}] * 6
    for row in run.run().curve:
        assert row["first_ratio_error"] == 0.0 and row["clip_fraction"] == 0.0 and row["step_kl"] < 1e-10
        assert abs(row["kl"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_in_the_loss_pulls_the_policy_back(small, estimator):
    """Without any reward, a policy that has been moved away returns towards its reference."""
    changes = {"kl.placement": "loss", "kl.estimator": estimator, "kl.coef": 1.0, "optimizer.learning_rate": 3e-3}
    row = moved_away(small, **changes)
    assert row[-1]["kl_k3"] < 0.7 * row[0]["kl_k3"]


@pytest.mark.slow
def test_kl_in_the_reward_pulls_the_policy_back(small):
    row = moved_away(small, **{"kl.coef": 1.0, "optimizer.learning_rate": 3e-3})
    assert row[-1]["kl_k3"] < 0.7 * row[0]["kl_k3"]


@pytest.mark.slow
def test_without_kl_nothing_pulls(small):
    rows = moved_away(small, **{"kl.coef": 0.0, "optimizer.learning_rate": 3e-3})
    assert math.isclose(rows[-1]["kl_k3"], rows[0]["kl_k3"], rel_tol=0.2)


def moved_away(small, **changes):
    """A run without reward whose policy begins away from the reference."""
    usual = {"shaping.constant_score": "allow", "shaping.missing_eos": "none", "whiten_advantages": False}
    critic = {"advantage": "reinforce_pp", "critic.kind": "none"}
    config = small.settings(**({"steps": 12, "rollouts": 64} | usual | critic | changes))
    made = small.models(config)
    with torch.no_grad():
        chance = torch.Generator().manual_seed(1)
        for weight in made.groups()["policy"]:
            weight += 0.06 * torch.randn(weight.shape, generator=chance)
    return small.trainer(config, made, reward=lambda p, r: torch.zeros(len(r), 2)).run().curve


@pytest.mark.slow
def test_the_adaptive_target_is_of_whole_sequences(small):
    """coef ← coef (1 + clip(KL / target - 1, ±.2) n / horizon), KL summed over the tokens of a response."""
    changes = {"kl.controller": "adaptive", "kl.target": 0.05, "kl.horizon": 50.0, "optimizer.learning_rate": 1e-2}
    run = small.trainer(small.settings(steps=4, **changes))
    tables, evaluate = [], run.evaluate
    run.evaluate = lambda *given: tables.append((evaluate(*given), given[1])) or tables[-1][0]
    rows = run.run().curve
    for row, following, ((logprobs, reference, _, _), mask) in zip(rows, rows[1:], tables, strict=False):
        total = ((logprobs - reference) * mask).sum(1).mean().item()
        assert math.isclose(row["kl"], total, abs_tol=1e-6)
        error = min(max(total / 0.05 - 1, -0.2), 0.2)
        assert math.isclose(following["kl_coef"], row["kl_coef"] * (1 + error * 12 / 50), rel_tol=1e-9)
    assert rows[-1]["kl"] / rows[-1]["length"] < 0.5 * rows[-1]["kl"]  # a mean over tokens would be another number


@pytest.mark.parametrize("how", ["none", "replace", "subtract"])
def test_missing_eos(small, how):
    """What is cut off gets -7, or 7 less than it would; what ended is left alone."""
    value = {"none": 0.0, "replace": -7.0, "subtract": 7.0}[how]
    config = small.settings(
        steps=1, rollouts=48, max_new_tokens=3, **{"shaping.missing_eos": how, "shaping.missing_eos_value": value}
    )
    run = small.trainer(config)
    seen, shape = [], shaping.shape
    try:
        shaping.shape = lambda *given: seen.append((given[0], given[1], shape(*given))) or seen[-1][2]
        run.run()
    finally:
        shaping.shape = shape
    ((scores, ended, shaped),) = seen
    assert ended.any() and not ended.all()
    assert torch.equal(shaped[ended], scores[ended])
    expected = {"none": scores, "replace": torch.full_like(scores, -7.0), "subtract": scores - 7}[how]
    assert torch.equal(shaped[~ended], expected[~ended])


def test_whitened_rewards_keep_their_mean(small):
    mask = torch.rand(5, 7) < 0.7
    rewards = torch.randn(5, 7) * 4 + 3
    white = whiten(rewards, mask, keep_mean=True)
    assert torch.isclose(white[mask].mean(), rewards[mask].mean(), atol=1e-5)
    assert torch.isclose(white[mask].std(), torch.tensor(1.0), atol=1e-4)


@pytest.mark.parametrize("name", sorted(options()["ppo"]))
def test_presets_have_the_fields_values(name):
    s = PPOSettings(**preset("ppo", name))
    assert s.optimizer.max_grad_norm == 1.0 and s.optimizer.eps == 1e-5
    assert (s.kl.placement, s.kl.estimator) == (
        ("loss", "k3") if "grpo" in name or name == "gdpo" else ("reward", "k1")
    )


# --- a critic of its own on the shared base ---


def test_the_adapter_critic_costs_its_adapter_alone(small):
    config = small.settings(**{"policy.kind": "lora", "critic.kind": "adapter"})
    made = small.models(config)
    assert made.reference is None
    base = sum(p.numel() for p in llama().parameters())
    adapters = [p for name, p in made.named_parameters() if "lora_" in name]
    head = made.value_head.weight.numel() + 1
    assert sum(p.numel() for p in made.parameters()) == base + sum(p.numel() for p in adapters) + head
    policy, critic = made.groups().values()
    assert not {id(p) for p in policy} & {id(p) for p in critic}
    assert {id(p) for p in (*policy, *critic)} == {id(p) for p in made.parameters() if p.requires_grad}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_policy_and_critic_do_not_touch_one_another(small, family, checkpointing):
    """Each loss gives the other's weights no gradient, whether activations are kept or recomputed."""
    config = small.settings(
        **{"policy.kind": "lora", "critic.kind": "adapter", "policy.gradient_checkpointing": checkpointing}
    )
    made = small.models(config, getattr(small, family)())
    policy, critic = made.groups().values()
    with torch.no_grad():  # away from the start, where half of an adapter is zero and gives the other no gradient
        for weight in (*policy, *critic):
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    batch = collate([[3, 4, 5], [6, 7]], [[20, 21, 1], [22, 1]], 0, CPU)
    with made.updating():
        logprobs, _, values = made(batch)
        alone = torch.autograd.grad(logprobs.sum(), policy + critic, retain_graph=True, allow_unused=True)
        assert all(g is not None and g.abs().sum() > 0 for g in alone[: len(policy)])
        assert all(g is None for g in alone[len(policy) :])
        value = torch.autograd.grad(values.sum(), policy + critic, retain_graph=True, allow_unused=True)
        assert all(g is None for g in value[: len(policy)]) and all(g.abs().sum() > 0 for g in value[len(policy) :])
        both = torch.autograd.grad(logprobs.sum() + values.sum(), policy + critic)
    for g, a, v in zip(both, alone, value, strict=True):
        assert torch.allclose(g, a if v is None else v, atol=1e-6)


def test_the_adapter_critic_sees_what_the_base_sees(small):
    """A fresh adapter changes nothing: its states are the base's."""
    config = small.settings(**{"policy.kind": "lora", "critic.kind": "adapter"})
    model = small.llama().eval()
    critic = adapter_critic(model, config)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.allclose(critic.model(ids).last_hidden_state, model.model(ids).last_hidden_state, atol=1e-6)


@pytest.mark.slow
def test_gradient_checkpointing_leaves_the_trajectory(small):
    found = []
    for checkpointing in (False, True):
        changes = {"policy.kind": "lora", "critic.kind": "adapter", "policy.gradient_checkpointing": checkpointing}
        config = small.settings(steps=2, **changes)
        made = small.models(config)
        curve = timeless(small.trainer(config, made).run().curve)
        found.append((weights(made), curve))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
