"""PPO with everything sharded (DeepSpeed ZeRO-3, two gloo processes) against the same run in one process."""

from __future__ import annotations

import math
from pathlib import Path

import processes
import pytest
import small_ppo
import torch
import zero

from morlaif import sharded
from morlaif.models.load import load_causal_lm
from morlaif.rl.policy import ActorCritic

pytestmark = [pytest.mark.slow, zero.NEEDED]

CASES = {
    "full": {"minibatches": 2, "micro_batch_size": 3},
    "lora, adapter critic": {"policy.kind": "lora", "critic.kind": "adapter", "critic.learning_rate": 1e-2},
    "lora, sampled in parts": {"policy.kind": "lora", "minibatches": 2, "gather": 0.0},
    "separate critic, which learns first": {
        "critic.kind": "separate", "value_coef": 3.0, "critic.warmup_steps": 1, "optimizer.weight_decay": 0.1,
    },
}  # fmt: skip


def settings(changes: dict):
    usual = {"eval_every": 2, "eval_prompts": 3, "samples": 2, "steps": 2, "optimizer.learning_rate": 1e-3}
    return small_ppo.settings(**(usual | {"checkpoint_every": 1} | changes))


def train(changes: dict, keep: str, stage: int = 0, loaded: str | None = None, bf16: bool = False):
    """`loaded`: a folder from which the ranks load the model in parts; whole weights are never on one of them."""
    gather = changes.get("gather", math.inf)
    config = settings({key: value for key, value in changes.items() if key != "gather"})
    how = {"accelerator": zero.accelerator(stage, config.micro_batch_size, bf16=bf16)} if stage else {}
    if loaded is None:
        made = small_ppo.models(config)
    else:
        kept = zero.parts(how["accelerator"].state.deepspeed_plugin.deepspeed_config)
        twins = [load_causal_lm(loaded, tokenizer=small_ppo.tokenizer()) for _ in range(3)]
        assert all(p.numel() == 0 for twin in twins for p in twin.parameters())
        critic = twins[2].requires_grad_(True) if config.critic.kind == "separate" else None
        torch.manual_seed(0)  # for the value head, as `small_ppo.models` does
        made = ActorCritic(twins[0], config, critic, twins[1])
        del kept
    run = small_ppo.trainer(config, Path(keep), made, held_out=small_ppo.PROMPTS[:3], gather=gather, **how)
    if stage:
        assert how["accelerator"].distributed_type.value == "DEEPSPEED"
    if stage == 3:
        assert all(hasattr(p, "ds_id") and p.numel() == 0 for p in made.parameters())  # in pieces, all of them
    result = run.run()
    weights = torch.cat([value.flatten() for value in run.engine.weights().values()])
    state = sharded.state_dict(made.model, torch.float32)
    exported = state and torch.cat([value.flatten() for value in state.values()])
    return small_ppo.timeless(result.curve), weights, result.samples, exported


@pytest.mark.timeout(450)
@pytest.mark.parametrize("name", CASES)
def test_sharded_run_is_the_one_process_run(name, tmp_path):
    curve, weights, samples, exported = train(CASES[name], str(tmp_path / "one"))
    found = processes.run(train, CASES[name], str(tmp_path / "two"), 3, folder=tmp_path, ranks=2, timeout=200)
    assert torch.equal(found[0][1], found[1][1])
    for row, expected in zip(found[0][0], curve, strict=True):
        assert row.keys() == expected.keys()
        for key in row:
            assert math.isclose(row[key], expected[key], rel_tol=1e-3, abs_tol=1e-4), key
    assert torch.allclose(found[0][1], weights, atol=2e-5)
    assert torch.allclose(found[0][3], exported, atol=2e-5)
    assert [row["after"] for row in found[0][2]] == [row["after"] for row in samples]

    # its checkpoint is anyone's: one process goes on from the first step
    for path in (tmp_path / "two").glob("step-00000002.*"):
        path.unlink()
    resumed = train(CASES[name], str(tmp_path / "two"))
    assert torch.allclose(resumed[1], weights, atol=2e-5)


@pytest.mark.timeout(450)
def test_sharded_run_resumes(tmp_path):
    changes = {"policy.kind": "lora", "critic.kind": "adapter"}
    _, weights, _, _ = train(changes, str(tmp_path / "keep"))  # one process wrote it
    for path in (tmp_path / "keep").glob("step-00000002.*"):
        path.unlink()
    found = processes.run(train, changes, str(tmp_path / "keep"), 3, folder=tmp_path, ranks=2, timeout=200)
    assert torch.allclose(found[0][1], weights, atol=2e-5)


@pytest.mark.timeout(450)
@pytest.mark.parametrize("name", ["full", "lora, adapter critic"])
def test_a_model_loaded_in_parts(tmp_path, name):
    """As a large one must be: the same trajectory as from whole weights."""
    small_ppo.llama().save_pretrained(tmp_path / "model")
    small_ppo.tokenizer().save_pretrained(tmp_path / "model")
    changes = CASES[name] | {"steps": 1}
    curve, weights, _, _ = train(changes, str(tmp_path / "one"))
    given = (changes, str(tmp_path / "two"), 3, str(tmp_path / "model"))
    found = processes.run(train, *given, folder=tmp_path, ranks=2, timeout=200)
    assert math.isclose(found[0][0][0]["grad_norm"], curve[0]["grad_norm"], rel_tol=1e-3)
    assert torch.allclose(found[0][1], weights, atol=2e-5)


@pytest.mark.timeout(450)
@pytest.mark.parametrize("changes", [{}, {"critic.kind": "separate", "policy.kind": "lora"}], ids=["full", "lora"])
def test_bfloat16_in_parts_learns_what_float32_does(tmp_path, changes):
    """What learns lies in one type beside a head or an adapter in float32, and its float32 originals are stepped.

    Adam's first step is a sign for each weight, so rounding turns some: most still go the same way.
    """
    small_ppo.llama().save_pretrained(tmp_path / "model")
    small_ppo.tokenizer().save_pretrained(tmp_path / "model")
    changes = changes | {"steps": 1, "optimizer.learning_rate": 1e-2}
    given = (changes, str(tmp_path / "two"), 3, str(tmp_path / "model"), True)
    found = processes.run(train, *given, folder=tmp_path, ranks=2, timeout=200)
    ((row,), weights, _, _), (_, other, _, _) = found
    assert torch.equal(weights, other) and weights.dtype == torch.float32 and row["first_ratio_error"] == 0
    if not changes.get("critic.kind"):  # else the critic of one process is another
        before = torch.cat([value.flatten() for value in small_ppo.models(settings(changes)).trained_state().values()])
        after = train(changes, str(tmp_path / "one"))[1]
        assert torch.cosine_similarity(weights - before, after - before, dim=0) > 0.6  # of unrelated steps: 0


@pytest.mark.timeout(450)
def test_stage_2_is_the_one_process_run_and_resumes(tmp_path):
    """Weights whole on each rank, moments in parts; a whole run, and one from a checkpoint of one process."""
    curve, weights, _, _ = train(CASES["full"], str(tmp_path / "one"))
    for path in (tmp_path / "one").glob("step-00000002.*"):
        path.unlink()
    for keep in ("two", "one"):
        found = processes.run(
            train, CASES["full"], str(tmp_path / keep), 2, folder=tmp_path / f"run {keep}", ranks=2, timeout=200
        )
        assert torch.allclose(found[0][1], weights, atol=2e-5)
        assert math.isclose(found[0][0][1]["policy_loss"], curve[1]["policy_loss"], rel_tol=1e-3, abs_tol=1e-4)
    train(CASES["full"], str(tmp_path / "two"))  # and its last checkpoint is one that one process reads
