"""The algorithm as a whole: what it must not depend on, what it must find, how it resumes and when it stops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_ppo import timeless, weights

from morlaif import sharded
from morlaif.errors import UserError
from morlaif.rl import schedule, trainer
from morlaif.rl.cuts import Cuts
from morlaif.rl.engine import Engine, make_optimizer
from morlaif.rl.policy import ActorCritic

# --- exactness ---


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("change", [{}, {"policy.kind": "lora"}, {"temperature": 0.7}, {"micro_batch_size": 5}])
def test_ratio_is_exactly_one_on_the_first_minibatch(small, family, change):
    config = small.settings(steps=2, **change)
    rows = small.trainer(config, small.models(config, getattr(small, family)())).run().curve
    assert [row["first_ratio_error"] for row in rows] == [0.0, 0.0]


def test_kl_is_zero_before_the_first_update(small):
    row = small.trainer(small.settings(steps=1)).run().curve[0]
    assert row["kl"] == 0.0 and row["kl_k3"] == 0.0


@pytest.mark.slow
def test_same_seed_same_numbers_other_seed_others(small):
    config = small.settings()
    runs = [small.trainer(config, seed=seed).run().curve for seed in (1, 1, 2)]
    assert timeless(runs[0]) == timeless(runs[1]) != timeless(runs[2])


@pytest.mark.slow
def test_zero_reward_and_zero_kl_leave_the_policy_still(small):
    changes = {"kl.coef": 0.0, "shaping.constant_score": "allow", "shaping.missing_eos": "none", "value_coef": 0.0}
    for advantage, critic, n in (("rloo", "none", 2), ("reinforce_pp", "none", 1)):
        config = small.settings(advantage=advantage, samples_per_prompt=n, **{"critic.kind": critic}, **changes)
        made = small.models(config)
        before = weights(made).clone()
        small.trainer(config, made, reward=lambda p, r: torch.zeros(len(r), 2)).run()
        assert torch.equal(weights(made), before)


@pytest.mark.slow
def test_zero_reward_with_a_perfect_critic_leaves_the_policy_still(small):
    changes = {"kl.coef": 0.0, "shaping.constant_score": "allow", "shaping.missing_eos": "none"}
    config = small.settings(**changes)
    made = small.models(config)
    torch.nn.init.zeros_(made.value_head.weight)
    before = weights(made).clone()
    small.trainer(config, made, reward=lambda p, r: torch.zeros(len(r), 2)).run()
    assert torch.equal(weights(made), before)


# --- invariances ---


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"critic.kind": "shared"}, {"policy.kind": "lora", "critic.kind": "adapter"}])
def test_the_first_forward_serves_evaluation_and_learning_alike(small, change, monkeypatch):
    """One forward fewer a step, and the same run as with one for each of them."""
    config = small.settings(steps=2, epochs=2, minibatches=2, micro_batch_size=4, **change)
    counts, forward = [], ActorCritic.forward

    def counted(models, *args, **how):
        counts[-1] += not how.get("reference")
        return forward(models, *args, **how)

    def run():
        counts.append(0)
        made = small.models(config)
        return timeless(small.trainer(config, made).run().curve), weights(made)

    monkeypatch.setattr(ActorCritic, "forward", counted)
    rows, learnt = run()
    monkeypatch.setattr(Engine, "begin", Engine.__call__)
    twice, same = run()
    assert rows == twice and torch.equal(learnt, same)
    assert counts[0] == counts[1] - 2


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_micro_batches_and_padding_do_not_change_the_update(small, critic, monkeypatch):
    """One minibatch of 12, or 12 rows accumulated in parts of 12, 5 or 1, or padded wider: one trajectory."""
    found = []
    for micro, bucket in ((12, 8), (5, 8), (1, 8), (12, 24)):
        monkeypatch.setattr("morlaif.rl.experience.BUCKET", {"cpu": bucket})
        config = small.settings(
            steps=2, minibatches=1, micro_batch_size=micro, **{"critic.kind": critic, "optimizer.learning_rate": 1e-3}
        )
        made = small.models(config)
        curve = small.trainer(config, made).run().curve
        found.append((weights(made), curve[1]))
    for other, row in found[1:]:
        assert torch.allclose(other, found[0][0], atol=2e-5)
        for name in ("reward", "kl", "policy_loss", "value_loss", "grad_norm", "entropy"):
            assert math.isclose(row[name], found[0][1][name], rel_tol=2e-3, abs_tol=2e-4), name


@pytest.mark.slow
def test_batch_order_does_not_change_the_update_without_whitening(small, monkeypatch):
    """With one minibatch an epoch, the order of the rows in it is no more than an order of summation."""
    config = small.settings(steps=1, minibatches=1, micro_batch_size=4, whiten_advantages=False)
    found = []
    for reverse in (False, True):
        made = small.models(config)
        run = small.trainer(config, made)
        plan = Cuts.passes

        def turned(self, *rows, plan=plan, reverse=reverse):
            made_plan = plan(self, *rows)
            return [[replace(m, micro=m.micro[::-1]) for m in epoch] for epoch in made_plan] if reverse else made_plan

        monkeypatch.setattr(Cuts, "passes", turned)
        run.run()
        monkeypatch.undo()
        found.append(weights(made))
    assert torch.allclose(*found, atol=2e-5)


def test_gradient_is_clipped_to_its_norm(small, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *args):
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    rows = small.trainer(small.settings(steps=1, value_coef=100.0)).run().curve
    assert rows[0]["grad_norm"] > 1 and max(norms) <= 1.0 + 1e-5


def test_optimizer_has_the_usual_epsilon(small):
    config = small.settings()
    assert make_optimizer(small.models(config), config.optimizer).defaults["eps"] == 1e-5


# --- it learns ---


def bandit_reward(prompts, responses):
    """Six arms of some thirty pay: the words w0 … w5."""
    return torch.tensor([[float(text in {"w0", "w1", "w2", "w3", "w4", "w5"})] for text in responses])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"policy.kind": "lora"},
        {"critic.kind": "separate"},
        {"policy.gradient_checkpointing": True},
    ],
    ids=lambda change: "-".join(map(str, change.values())) or "gae",
)
def test_a_bandit_with_a_known_optimum_is_solved(small, change):
    """Without a critic: `test_rl_presets`."""
    usual = {
        "steps": 20, "rollouts": 64, "max_new_tokens": 1, "micro_batch_size": 64, "minibatches": 2, "epochs": 4,
        "shaping.missing_eos": "none", "shaping.constant_score": "allow", "kl.coef": 0.0,
        "optimizer.learning_rate": 1e-2, "critic.learning_rate": 1e-2,
    }  # fmt: skip
    config = small.settings(**(usual | change))
    model = small.llama()
    if config.policy.kind == "lora":  # the frozen output embeddings are short: no word could become likely
        model.model.norm.weight.data *= 4
    made = small.models(config, model)
    rows = small.trainer(config, made, reward=bandit_reward, objective=lambda s: s[:, 0], names=("arm",)).run().curve
    assert rows[0]["reward"] < 0.4 and rows[-1]["reward"] > 0.9


@pytest.mark.slow
def test_kl_regularised_bandit_finds_the_boltzmann_policy(small):
    """The optimum of r - β KL is known: π(a) ∝ π_ref(a) exp(r(a) / β)."""
    beta = 0.5
    config = small.settings(
        steps=60, rollouts=256, max_new_tokens=1, micro_batch_size=256, minibatches=1, epochs=2,
        whiten_advantages=False, clip_range_value=None, **{
            "shaping.missing_eos": "none", "kl.coef": beta,
            "optimizer.learning_rate": 5e-3, "critic.learning_rate": 5e-2,
        },
    )  # fmt: skip
    reward = lambda p, r: torch.tensor([[1.0 if t and int(t.split()[0][1:]) < 10 else 0.0] for t in _words(r)])  # noqa: E731
    made = small.models(config)
    prompt = [[{"role": "user", "content": "w1 w2"}]]
    with torch.no_grad():
        ref = made.model(torch.tensor([[4, 5]])).logits[0, -1].softmax(-1)
    small.trainer(config, made, reward=reward, objective=lambda s: s[:, 0], names=("low",), prompts=prompt).run()
    with torch.no_grad():
        policy = made.model(torch.tensor([[4, 5]])).logits[0, -1].softmax(-1)
    pays = torch.zeros(32)
    pays[3:13] = 1.0
    best = ref * (pays / beta).exp()
    best /= best.sum()
    assert abs(policy[3:13].sum() - best[3:13].sum()) < 0.06 < abs(ref[3:13].sum() - best[3:13].sum())


def _words(texts):
    return [text if text.startswith("w") else "" for text in texts]


@pytest.mark.slow
def test_critic_warmup_leaves_the_policy(small):
    for kind, policy in (("shared", "full"), ("separate", "full"), ("adapter", "lora")):
        config = small.settings(
            steps=5, **{
                "critic.kind": kind, "policy.kind": policy, "critic.warmup_steps": 5, "optimizer.learning_rate": 1e-2,
            },
        )  # fmt: skip
        made = small.models(config)
        before = {name: value.clone() for name, value in made.trained_state().items()}
        rows = small.trainer(config, made).run().curve
        after = made.trained_state()
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved and all(name.startswith(("value_head", "critic")) for name in moved)
        assert "policy_loss" not in rows[0] and rows[-1]["value_loss"] < rows[0]["value_loss"]


@pytest.mark.slow
def test_adaptive_kl_moves_the_coefficient_and_fixed_does_not(small):
    changes = {"kl.target": 1e-6, "kl.horizon": 100.0, "optimizer.learning_rate": 1e-2}
    rows = small.trainer(small.settings(**{"kl.controller": "adaptive"}, **changes)).run().curve
    # the first step has KL 0: the coefficient falls by .2 · 12 / 100, then rises by as much
    assert math.isclose(rows[1]["kl_coef"], 0.05 * 0.976) and math.isclose(rows[2]["kl_coef"], 0.05 * 0.976 * 1.024)
    assert {row["kl_coef"] for row in small.trainer(small.settings(**changes)).run().curve} == {0.05}


# --- the log, the samples, the export ---


def test_log_has_everything(small):
    row = small.trainer(small.settings(steps=1)).run().curve[0]
    names = "reward kl kl_k3 entropy length ended clip_fraction value_loss policy_loss explained_variance learning_rate"
    assert {*names.split(), "seconds"} <= row.keys() and {
        "score/early",
        "score/different",
        "deviation/early",
    } <= row.keys()
    assert all(math.isfinite(value) for value in row.values())


@pytest.mark.slow
def test_each_principle_has_its_mean_deviation_and_clipped_share(small):
    """Of the normalised scores: the share at or beyond the clip of the reward."""
    seen = []

    def reward(prompts, responses):
        seen.append(small.reward(prompts, responses))
        return seen[-1]

    row = small.trainer(small.settings(steps=1, **{"shaping.clip": 2.0}), reward=reward).run().curve[0]
    for column, name in enumerate(("early", "different")):
        scores = seen[0][:, column]
        assert math.isclose(row[f"score/{name}"], scores.mean(), rel_tol=1e-6)
        assert math.isclose(row[f"deviation/{name}"], scores.std(correction=0), rel_tol=1e-5)
        assert math.isclose(row[f"clipped/{name}"], (scores.abs() >= 2).float().mean(), rel_tol=1e-6)
    assert 0 < row["clipped/different"] < 1 or 0 < row["clipped/early"] < 1
    unclipped = small.trainer(small.settings(steps=1, **{"shaping.clip": None})).run().curve[0]
    assert not any(name.startswith("clipped/") for name in unclipped)


@pytest.mark.slow
def test_logged_reward_is_before_kl_and_shaping(small):
    seen = []

    def reward(prompts, responses):
        seen.append(small.reward(prompts, responses))
        return seen[-1]

    config = small.settings(steps=2, **{"kl.coef": 9.0, "shaping.length_penalty": 3.0})
    rows = small.trainer(config, reward=reward).run().curve
    for row, scores in zip(rows, seen, strict=True):
        assert math.isclose(row["reward"], scores.mean(1).mean(), rel_tol=1e-6)
        assert math.isclose(row["score/early"], scores[:, 0].mean(), rel_tol=1e-6)


@pytest.mark.slow
def test_samples_before_are_the_untrained_models(small):
    usual = {"samples": 4, "eval_prompts": 5}
    config = small.settings(**usual, **{"optimizer.learning_rate": 5e-2})
    rows = small.trainer(config, held_out=small.prompts[:5]).run().samples
    still = small.trainer(small.settings(**usual, **{"optimizer.learning_rate": 1e-30}), held_out=small.prompts[:5])
    still = still.run().samples
    assert [row["before"] for row in rows] == [row["before"] for row in still] == [row["after"] for row in still]
    assert any(row["before"] != row["after"] for row in rows)
    assert rows[0]["prompt"] == small.prompts[0] and set(rows[0]["scores_after"]) == {"early", "different"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_exported_policy_is_the_trained_one(small, kind, tmp_path):
    from transformers import AutoModelForCausalLM

    config = small.settings(**{"policy.kind": kind, "optimizer.learning_rate": 1e-2})
    made = small.models(config)
    small.trainer(config, made).run()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = made.model(ids).logits
        made.model.save_pretrained(tmp_path / "model", state_dict=sharded.state_dict(made.model, torch.float32))
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(ids).logits
    assert torch.allclose(found, expected, atol=1e-5)


# --- it stops ---


def test_nan_names_the_principle_and_the_response(small):
    def reward(prompts, responses):
        scores = small.reward(prompts, responses)
        scores[4, 1] = math.nan
        return scores

    with pytest.raises(UserError, match=r"step 0: the score of 'different' is nan for response 4"):
        small.trainer(small.settings(), reward=reward).run()


@pytest.mark.slow
def test_constant_score_names_the_principle(small):
    def reward(prompts, responses):
        scores = small.reward(prompts, responses)
        scores[:, 0] = 1.5
        return scores

    with pytest.raises(UserError, match=r"step 0: the score of 'early' is 1.5 for all 12 responses"):
        small.trainer(small.settings(), reward=reward).run()
    small.trainer(small.settings(steps=1, **{"shaping.constant_score": "allow"}), reward=reward).run()


@pytest.mark.slow
def test_a_reward_that_shaping_has_levelled_stops_at_the_first_step(small, caplog):
    """No response ended, and each score was replaced: the scores differ, what is learnt from does not."""
    endless = {"max_new_tokens": 5, "shaping.missing_eos": "replace", "kl.coef": 0.0}

    def run(step=0, **changes):
        made = small.trainer(small.settings(steps=1, **(endless | changes)))
        sample = made.rollout.sample
        made.rollout.sample = lambda *given: [[max(3, i) for i in ids[:-1]] + [9] for ids in sample(*given)]
        return made.step(step)

    match = r"step 0: the shaped reward is -1 for all 12 responses.*none of them ended by itself.*ppo\.max_new_tokens"
    with pytest.raises(UserError, match=match):
        run()
    with pytest.raises(UserError, match=r"0\.01 for all 12 .*each score is clipped; raise ppo\.shaping\.clip"):
        run(**{"shaping.missing_eos": "none", "shaping.clip": 0.01})
    assert not caplog.records
    run(**{"shaping.constant_score": "allow"})
    run(step=1)  # a policy may pass through such a step
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_a_run_that_diverges_is_reported(small):
    config = small.settings(steps=9)
    # Settings refuse such a rate: it stands for whatever else makes a run diverge.
    wild = config.optimizer.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e9})
    config = config.model_copy(update={"optimizer": wild})
    with pytest.raises(UserError, match=r"step \d: .* is (nan|inf) after the updates: the run has diverged; lower"):
        small.trainer(config).run()


def test_wrong_shape_and_overflow(small):
    with pytest.raises(UserError, match=r"must be \(12, 2\)"):
        small.trainer(small.settings(), reward=lambda p, r: torch.zeros(len(r), 3)).run()
    with pytest.raises(UserError, match="look at the scalarizer"):
        small.trainer(small.settings(), objective=lambda s: s[:, 0] / 0).run()


@pytest.mark.slow
def test_kl_above_its_limit_ends_the_run(small):
    config = small.settings(steps=9, **{"kl.stop": 1e-9, "optimizer.learning_rate": 1e-2})
    result = small.trainer(config).run()
    assert len(result.curve) < 9 and "exceeds kl.stop" in result.stopped


def test_pad_that_is_eos_is_refused(small):
    import copy

    same = copy.deepcopy(small.tokenizer)
    same.pad_token = same.eos_token
    config = small.settings()
    with pytest.raises(UserError, match="pad token other than EOS"):
        trainer.PPOTrainer(
            small.models(config),
            same,
            small.prompts,
            small.reward,
            ("a", "b"),
            small.objective,
            config,
            seed=0,
            keep=None,
        )


# --- schedule ---


def test_stream_visits_every_prompt_once_a_pass_and_can_begin_anywhere():
    whole = schedule.stream(5, 0, 20, seed=3)
    assert all(sorted(whole[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    assert whole[0:5] != whole[5:10] or whole[5:10] != whole[10:15]
    assert [schedule.stream(5, i, 1, seed=3)[0] for i in range(20)] == whole
    assert schedule.stream(5, 3, 9, seed=3) == whole[3:12]


def test_learning_rates(small):
    rules = small.settings(**{"optimizer.warmup_steps": 4, "optimizer.schedule": "linear"}).optimizer
    rates = [schedule.learning_rate(i, 8, 1.0, rules) for i in range(8)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    rules = small.settings(**{"optimizer.schedule": "cosine"}).optimizer
    assert math.isclose(schedule.learning_rate(4, 8, 1.0, rules), 0.5)
