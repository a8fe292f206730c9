"""PPO on two processes is PPO on one: the same rows, the same curve, the same weights, up to float rounding."""

from __future__ import annotations

import math
from pathlib import Path

import processes
import pytest
import small_ppo
import torch

from morlaif import ranks
from morlaif.errors import UserError

CASES = {
    "full, shared critic, minibatches": {"steps": 3, "minibatches": 2, "micro_batch_size": 3},
    "odd rows: 13 in 2 minibatches": {"rollouts": 13, "minibatches": 2, "micro_batch_size": 4},
    "lora, adapter critic": {"policy.kind": "lora", "critic.kind": "adapter", "critic.learning_rate": 1e-2},
    "separate critic, whitened rewards, running": {
        "critic.kind": "separate", "whiten_rewards": True, "shaping.scaling": "running", "kl.controller": "adaptive",
        "kl.target": 0.01,
    },
    "groups, KL in the loss, entropy": {
        "advantage": "grpo", "critic.kind": "none", "samples_per_prompt": 3, "kl.placement": "loss",
        "kl.estimator": "k3", "entropy_coef": 0.01,
    },
    "stopped by KL": {
        "target_kl": 1e-6, "epochs": 4, "minibatches": 3, "optimizer.learning_rate": 1e-2, "dual_clip": 1.1,
    },
    "best and worst of groups that are not level": {
        "advantage": "dr_grpo", "critic.kind": "none", "samples_per_prompt": 3, "learn_from": "best_and_worst",
        "drop_level_groups": True, "scale_rewards": True, "minibatches": 3, "micro_batch_size": 1,
    },
    "weights by gradients": {
        "gradient_weights": "pcgrad", "policy.kind": "lora", "minibatches": 2, "micro_batch_size": 2,
        "whiten_rewards": True,
    },
    "critic first": {"critic.warmup_steps": 1, "minibatches": 1, "micro_batch_size": 5},
}  # fmt: skip


def train(changes: dict, keep: str) -> tuple[list, torch.Tensor, list, int | None]:
    usual = {"eval_every": 1, "eval_prompts": 3, "samples": 2, "steps": 2, "optimizer.learning_rate": 1e-3}
    config = small_ppo.settings(**(usual | changes))
    made = small_ppo.models(config)
    result = small_ppo.trainer(config, Path(keep), made, held_out=small_ppo.PROMPTS[:3]).run()
    return small_ppo.timeless(result.curve), small_ppo.weights(made), result.samples, result.best


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_make_the_trajectory_of_one(name, tmp_path):
    curve, weights, samples, best = train(CASES[name], str(tmp_path / "one"))
    found = processes.run(train, CASES[name], str(tmp_path / "two"), folder=tmp_path, ranks=2)
    assert torch.equal(found[0][1], found[1][1])  # ranks agree to the bit
    assert found[0][0] == found[1][0]
    assert torch.allclose(found[0][1], weights, atol=2e-5)
    for row, expected in zip(found[0][0], curve, strict=True):
        assert row.keys() == expected.keys()
        for key in row:
            assert math.isclose(row[key], expected[key], rel_tol=1e-3, abs_tol=2e-4), key
    assert [row["after"] for row in found[0][2]] == [row["after"] for row in samples]
    assert found[0][3] == best


@pytest.mark.slow
def test_a_move_of_the_weights_is_more_than_the_tolerance(tmp_path):
    """The comparison above can fail: two runs of other seeds differ by far more."""
    config = small_ppo.settings(steps=2, **{"optimizer.learning_rate": 1e-3})
    made = [small_ppo.models(config), small_ppo.models(config)]
    for seed, models in enumerate(made):
        small_ppo.trainer(config, tmp_path / str(seed), models, seed=seed).run()
    assert not torch.allclose(small_ppo.weights(made[0]), small_ppo.weights(made[1]), atol=2e-4)


def share(keep: str) -> list[tuple[int, int]]:
    """How many rows each rank scored, and who wrote files."""
    seen = []

    def reward(prompts, texts):
        seen.append((len(prompts), len(texts)))
        return small_ppo.word_reward(prompts, texts)

    config = small_ppo.settings(steps=1, rollouts=13, minibatches=1, checkpoint_every=1)
    run = small_ppo.trainer(config, Path(keep), reward=reward)
    rows = []
    run.run(lambda row: rows.append(row))
    with_rows = [len(rows) for rows, _ in run.cuts.passes(0, [[3]] * 13, [[4]] * 13)[0][0].micro]
    return seen, len(rows), with_rows


@pytest.mark.slow
def test_each_rank_does_its_share_and_the_first_alone_writes(tmp_path):
    found = processes.run(share, str(tmp_path / "keep"), folder=tmp_path, ranks=2)
    assert [seen for seen, _, _ in found] == [[(7, 7)], [(6, 6)]]
    assert [steps for _, steps, _ in found] == [1, 0]
    assert [rows for _, _, rows in found] == [[7], [6]]
    assert sorted(path.name for path in (tmp_path / "keep").iterdir()) == ["step-00000001.json", "step-00000001.pt"]


def give_up(keep: str) -> str:
    """The reward of the second rank alone cannot go on, in the third step."""
    calls = iter(range(1, 100))

    def reward(prompts, texts):
        if next(calls) == 3 and ranks.rank() == 1:
            raise UserError("no money")
        return small_ppo.word_reward(prompts, texts)

    try:
        small_ppo.trainer(small_ppo.settings(steps=4, checkpoint_every=5), Path(keep), reward=reward).run()
    except UserError as error:
        return str(error)
    return "it went on"


@pytest.mark.slow
def test_a_reward_that_gives_up_on_one_rank_ends_all(tmp_path):
    found = processes.run(give_up, str(tmp_path / "keep"), folder=tmp_path, ranks=2)
    assert found == ["no money", "no money"]
    assert sorted(path.name for path in (tmp_path / "keep").iterdir()) == ["step-00000002.json", "step-00000002.pt"]


def resume(keep: str) -> tuple[list, torch.Tensor]:
    config = small_ppo.settings(steps=4, checkpoint_every=2, **{"optimizer.learning_rate": 1e-3})
    made = small_ppo.models(config)
    seen = []
    result = small_ppo.trainer(config, Path(keep), made).run(lambda row: seen.append(row["step"]))
    return seen, small_ppo.timeless(result.curve), small_ppo.weights(made)


def halt(keep: str) -> None:
    config = small_ppo.settings(steps=4, checkpoint_every=2, **{"optimizer.learning_rate": 1e-3})
    run = small_ppo.trainer(config, Path(keep))
    step = run.step
    run.step = lambda place: (_ for _ in ()).throw(SystemExit) if place == 3 else step(place)
    try:
        run.run()
    except SystemExit:
        return


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_resumes_on_one(tmp_path):
    _, curve, weights = resume(str(tmp_path / "unbroken"))
    processes.run(halt, str(tmp_path / "keep"), folder=tmp_path / "a", ranks=2)
    seen, found, after = resume(str(tmp_path / "keep"))
    assert seen == [3, 4] and torch.allclose(after, weights, atol=2e-5)
    assert math.isclose(found[-1]["reward"], curve[-1]["reward"], rel_tol=1e-3)


def too_many() -> str:
    try:
        small_ppo.trainer(small_ppo.settings(rollouts=4, minibatches=4), Path("unused"))
    except UserError as error:
        return str(error)
    return f"accepted on {ranks.count()}"


@pytest.mark.slow
def test_more_processes_than_rows_are_reported(tmp_path):
    found = processes.run(too_many, folder=tmp_path, ranks=2)
    assert all("use fewer minibatches or more rollouts" in text for text in found)
