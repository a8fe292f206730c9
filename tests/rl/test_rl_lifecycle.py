"""The life of a run: killed and resumed, evaluated on the way, ended with the policy that was asked for."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import small_ppo
import torch
from small_ppo import algorithm, timeless, weights

from morlaif.errors import UserError
from morlaif.models.states import verified
from morlaif.rl import schedule
from morlaif.rl.held_out import Answers, gain_row

pytestmark = pytest.mark.slow

HELD_OUT = small_ppo.PROMPTS[:4]
LONG = {"steps": 6, "checkpoint_every": 2, "eval_every": 3, "eval_prompts": 4, "samples": 3}


# --- resume ---


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"policy.kind": "lora", "kl.controller": "adaptive", "kl.target": 0.1, "optimizer.schedule": "cosine"},
        {"policy.kind": "lora", "critic.kind": "adapter"},
        {"critic.kind": "separate", "shaping.scaling": "running", "shaping.center": True, "optimizer.warmup_steps": 3},
        algorithm("rloo") | {"stop": ["w9"], "shaping.missing_eos": "replace"},
        algorithm("gdpo"),
        algorithm("rloo") | {"learn_from": "best_and_worst", "drop_level_groups": True, "scale_rewards": True},
        {"gradient_weights": "pcgrad", "policy.kind": "lora"},
        {"target_kl": 1e-6, "epochs": 4, "clip_range_high": 0.3},
        {"shaping.scaling": "frozen", "rollouts": 8},  # eight of twelve prompts a step: a pass ends inside a step
        {"overlap": True, "policy.kind": "lora"},
    ],
    ids=[
        "full",
        "lora-adaptive-cosine",
        "adapter",
        "separate-running-warmup",
        "rloo-stop",
        "gdpo",
        "best-and-worst",
        "pcgrad",
        "target-kl",
        "frozen-stream",
        "ahead",
    ],
)
def test_killed_and_resumed_is_bit_for_bit_the_unbroken_run(small, change, tmp_path):
    config = small.settings(**LONG, **change)
    unbroken = small.models(config)
    expected = small.trainer(config, unbroken, held_out=HELD_OUT).run()

    def kill(row):
        if row["step"] == 5:  # one step after the checkpoint: it must be done again
            raise Killed

    keep = tmp_path / "shared"
    with pytest.raises(Killed):
        small.trainer(config, keep=keep, held_out=HELD_OUT).run(kill)
    torch.rand(7)  # the process's own generator plays no part
    resumed = small.models(config, seed=99)
    seen = []
    found = small.trainer(config, resumed, keep=keep, held_out=HELD_OUT).run(lambda row: seen.append(row["step"]))
    assert seen == [5, 6]
    assert timeless(found.curve) == timeless(expected.curve) and found.samples == expected.samples
    assert found.details == expected.details and len(found.details) == 6
    assert found.best == expected.best
    assert torch.equal(weights(resumed), weights(unbroken))


def test_a_step_is_told_before_its_checkpoint_stands(small, tmp_path):
    def told(row):
        stands = {int(file.stem.removeprefix("step-")) for file in tmp_path.glob("step-*.json")}
        assert row["step"] - 1 in {0, *stands} and row["step"] not in stands

    config = small.settings(**LONG | {"steps": 3, "checkpoint_every": 1})
    small.trainer(config, keep=tmp_path, held_out=HELD_OUT).run(told)
    assert (tmp_path / "step-00000003.json").is_file()


def test_a_reward_that_draws_resumes_too(small, tmp_path):
    """A user's callable may use the process's generators: they are seeded for each step."""
    config = small.settings(steps=4, checkpoint_every=2)

    def noisy(prompts, texts):
        import random

        return small.reward(prompts, texts) + random.random() + torch.rand(len(texts), 2)

    expected = small.trainer(config, reward=noisy).run().curve

    def kill(row):
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        small.trainer(config, reward=noisy, keep=tmp_path).run(kill)
    assert timeless(small.trainer(config, reward=noisy, keep=tmp_path).run().curve) == timeless(expected)


class Bored:
    """A reward that learns: a response is worth less, the more of the policy's samples had its length."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, prompts, texts):
        return torch.tensor([[-float(self.seen.count(len(text))), float(len(text))] for text in texts])

    def observe(self, prompts, texts):
        self.seen += map(len, texts)

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen = list(state["seen"])


def test_a_reward_that_learns_resumes_with_what_it_has_learnt(small, tmp_path):
    config = small.settings(steps=4, checkpoint_every=2, **{"shaping.constant_score": "allow"})
    expected = small.trainer(config, reward=Bored()).run().curve

    def kill(row):
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        small.trainer(config, reward=Bored(), keep=tmp_path).run(kill)
    again = Bored()
    assert timeless(small.trainer(config, reward=again, keep=tmp_path).run().curve) == timeless(expected)
    assert len(again.seen) == 4 * config.rollouts


def test_a_reward_that_gives_up_costs_no_step(small, tmp_path):
    """Its money is spent in the middle of a step: the steps before it are kept, whenever a checkpoint was due."""
    config = small.settings(steps=6, checkpoint_every=5)
    unbroken = small.models(config)
    expected = small.trainer(config, unbroken).run()
    calls = iter(range(1, 100))

    def poor(prompts, texts):
        if next(calls) == 4:
            raise UserError("no money")
        return small.reward(prompts, texts)

    with pytest.raises(UserError, match="no money"):
        small.trainer(config, keep=tmp_path, reward=poor).run()
    resumed, seen = small.models(config, seed=99), []
    found = small.trainer(config, resumed, keep=tmp_path).run(lambda row: seen.append(row["step"]))
    assert seen == [4, 5, 6]
    assert timeless(found.curve) == timeless(expected.curve) and torch.equal(weights(resumed), weights(unbroken))


def train_until_killed(keep: str, write: int) -> None:
    """SIGKILL in the middle of the `write`-th write of a file: half of it is on the disk."""
    writes = iter(range(1, 1000))
    fsync = os.fsync

    def kill(number: int) -> None:
        if next(writes) == write:
            size = os.fstat(number).st_size
            os.ftruncate(number, size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(number)

    os.fsync = kill
    train(keep)


def train(keep: str) -> tuple[list, torch.Tensor, list]:
    config = small_ppo.settings(**LONG)
    made = small_ppo.models(config)
    result = small_ppo.trainer(config, Path(keep), made, held_out=HELD_OUT).run()
    return timeless(result.curve), weights(made), result.samples


@pytest.mark.parametrize("write", range(1, 9))
def test_killed_while_it_writes(tmp_path, write, unbroken):
    """In this order: state and manifest of step 2, samples and best of step 3, state and manifest of step 4 …"""
    with pytest.raises(processes.Died, match=str(-signal.SIGKILL)):
        processes.run(train_until_killed, str(tmp_path / "keep"), write, folder=tmp_path / "a")
    assert list((tmp_path / "keep").glob("*.partial"))
    curve, after, samples = train(str(tmp_path / "keep"))
    assert curve == unbroken[0] and torch.equal(after, unbroken[1]) and samples == unbroken[2]
    assert not list((tmp_path / "keep").glob("*.partial"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train(str(tmp_path_factory.mktemp("unbroken")))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": (truncate, "bytes of"),
    "one bit": (flip, "its content is not what was written"),
    "gone": (Path.unlink, "No such file"),
    "no manifest": (lambda path: path.with_suffix(".json").write_text("{"), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, name, unbroken, caplog):
    damage, words = DAMAGES[name]
    train(str(tmp_path))
    damage(tmp_path / "step-00000006.pt")
    with caplog.at_level(logging.WARNING, logger="morlaif.models.checkpoint"):
        curve, after, samples = train(str(tmp_path))
    assert curve == unbroken[0] and torch.equal(after, unbroken[1]) and samples == unbroken[2]
    (record,) = caplog.records
    told = record.getMessage()
    assert "\n" not in told and "step-00000006.pt is damaged" in told and words in told
    assert "goes on from the checkpoint of step 4" in told
    assert verified(tmp_path / "step-00000006.json")["step"] == 6  # written again, whole


def test_when_all_are_damaged_the_run_does_not_begin_anew(small, tmp_path):
    train(str(tmp_path))
    for path in tmp_path.glob("step-*.pt"):
        flip(path)
    with pytest.raises(UserError, match=r"no other checkpoint is whole.*Remove .* to begin anew"):
        train(str(tmp_path))


def test_two_states_are_kept_and_the_best(small, tmp_path):
    rewards = {1: 0.0, 2: 5.0, 3: 1.0, 4: 2.0, 5: 3.0, 6: 4.0}
    held_out_rewards(small, tmp_path, rewards, steps=6, checkpoint_every=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "best-00000002.pt", "samples.jsonl",
        "step-00000005.json", "step-00000005.pt", "step-00000006.json", "step-00000006.pt",
    ]  # fmt: skip


def test_torn_checkpoint_is_not_seen(small, tmp_path):
    config = small.settings(steps=2, checkpoint_every=1)
    torn = tmp_path / "step-00000009.pt.123.partial"
    torn.write_bytes(b"half")
    (tmp_path / "step-00000008.pt").write_bytes(b"killed before its manifest")
    assert len(small.trainer(config, keep=tmp_path).run().curve) == 2
    assert sorted(path.name for path in tmp_path.glob("*.pt*")) == ["step-00000001.pt", "step-00000002.pt"]


def test_checkpoint_of_another_run_is_refused(small, tmp_path):
    small.trainer(small.settings(steps=1, checkpoint_every=1), keep=tmp_path).run()
    with pytest.raises(UserError, match="other settings or another seed"):
        small.trainer(small.settings(steps=2, checkpoint_every=1), keep=tmp_path).run()
    # how often a checkpoint is written is not part of what it must agree with
    small.trainer(small.settings(steps=1, checkpoint_every=7), keep=tmp_path).run()


# --- held-out prompts, best and last ---


def held_out_rewards(small, folder, rewards, **changes):
    """A run whose held-out reward after each step is given; the trainer, its result and the weights after each step."""
    config = small.settings(**({"eval_every": 1, "eval_prompts": 2, "optimizer.learning_rate": 1e-2} | changes))
    made = small.models(config)
    run = small.trainer(config, made, held_out=HELD_OUT[:2], keep=folder)
    score = run.score

    def told(prompts, texts, purpose, step):
        scores = score(prompts, texts, purpose, step)
        return torch.full_like(scores, rewards.get(step, -9.0)) if purpose == "held out" else scores

    run.score = told
    after = {}
    result = run.run(lambda row: after.__setitem__(row["step"], weights(made).clone()))
    return made, result, after


@pytest.mark.parametrize("other", [False, True])
def test_last_or_best_policy(small, tmp_path, other):
    rewards = {1: 0.0, 2: 5.0, 3: 1.0}
    for keep, chosen, left in (("last", 3, 2), ("best", 2, 3)):
        made, result, after = held_out_rewards(small, tmp_path / keep, rewards, keep=keep, keep_other=other)
        assert result.best == 2
        assert torch.equal(weights(made), after[chosen]) and not torch.equal(after[2], after[3])
        if other:
            assert torch.equal(torch.cat([value.flatten() for value in result.other.values()]), after[left])
        else:
            assert result.other is None


def test_best_survives_a_kill(small, tmp_path):
    """The best policy is of a step before the checkpoint that the run resumes from."""
    changes = {"steps": 4, "checkpoint_every": 3, "keep": "best"}
    rewards = {1: 5.0, 2: 0.0, 3: 1.0, 4: 2.0}
    _, _, after = held_out_rewards(small, tmp_path / "unbroken", rewards, **changes)
    held_out_rewards(small, tmp_path / "killed", rewards, **(changes | {"steps": 4}))
    (tmp_path / "killed" / "step-00000004.json").unlink()  # as if killed before it
    made, result, _ = held_out_rewards(small, tmp_path / "killed", rewards, **changes)
    assert result.best == 1 and torch.equal(weights(made), after[1])


def test_weights_are_kept_on_the_way(small, tmp_path):
    """Every so many steps, with a look at the held-out prompts; also of a run that was killed in between."""
    changes = {"steps": 5, "keep_every": 2, "eval_every": 0, "checkpoint_every": 3}
    _, result, after = held_out_rewards(small, tmp_path / "whole", {}, **changes)
    assert result.kept == [2, 4]
    assert [row["step"] for row in result.curve if "eval/kl" in row] == [2, 4, 5]
    held_out_rewards(small, tmp_path / "killed", {}, **changes)
    for state in (tmp_path / "killed").glob("step-00000005.*"):
        state.unlink()
    (tmp_path / "killed" / "kept-00000004.pt").unlink()  # as if killed before it
    held_out_rewards(small, tmp_path / "killed", {}, **changes)
    for folder in ("whole", "killed"):
        for step in result.kept:
            kept = torch.load(tmp_path / folder / f"kept-{step:08d}.pt")
            assert torch.equal(torch.cat([value.flatten() for value in kept.values()]), after[step])
    assert held_out_rewards(small, tmp_path / "none", {}, **changes | {"keep_every": None})[1].kept == []


def test_evaluation_is_in_the_curve_at_its_steps_and_at_the_end(small):
    config = small.settings(steps=5, eval_every=2, eval_prompts=4, samples=2)
    curve = small.trainer(config, held_out=HELD_OUT).run().curve
    assert [row["step"] for row in curve if "eval/reward" in row] == [2, 4, 5]
    assert all(
        row["eval/gain_low"] <= row["eval/gain"] <= row["eval/gain_high"] for row in curve if "eval/reward" in row
    )
    names = {f"eval/{x}" for x in ("reward", "kl", "length", "ended", "score/early", "score/different")}
    assert names <= curve[1].keys() and not names & curve[0].keys()


def test_evaluation_tells_the_truth(small):
    """Of a policy that does not move: its own answers, their scores, and no KL."""
    config = small.settings(steps=1, eval_prompts=4, samples=4, **{"optimizer.learning_rate": 1e-30})
    result = small.trainer(config, held_out=HELD_OUT).run()
    row, table = result.curve[0], result.samples
    scores = small.reward(HELD_OUT, [line["after"] for line in table])
    assert row["eval/kl"] == pytest.approx(0, abs=1e-6)
    assert row["eval/gain"] == row["eval/gain_low"] == row["eval/gain_high"] == 0
    assert row["eval/score/early"] == pytest.approx(scores[:, 0].mean().item())
    assert row["eval/reward"] == pytest.approx(scores.mean().item())
    assert [line["before"] for line in table] == [line["after"] for line in table]
    assert [line["prompt"] for line in table] == HELD_OUT


def test_evaluation_does_not_change_the_run(small):
    usual = small.settings(steps=3)
    watched = small.settings(steps=3, eval_every=1, eval_prompts=4)
    curves = [small.trainer(usual).run().curve, small.trainer(watched, held_out=HELD_OUT).run().curve]
    assert timeless(curves[0]) == [
        {name: value for name, value in row.items() if not name.startswith("eval/")} for row in timeless(curves[1])
    ]


def test_gain_is_of_pairs_under_the_objective_as_it_is():
    before, after = (Answers([""] * 4, [], [], 0, 1, 1, raw) for raw in ([[1], [2], [3], [4]], [[2], [4], [4], [5]]))
    found = gain_row(before, after, lambda scores: 10 * scores[:, 0], seed=0)
    assert found["eval/gain"] == pytest.approx(12.5)  # gains of 10, 20, 10 and 10, whatever the prompts differ by
    assert 10 <= found["eval/gain_low"] < 12.5 < found["eval/gain_high"] <= 20
    assert gain_row(replace(before, raw=[]), after, lambda scores: scores[:, 0], seed=0) == {}  # of an older checkpoint


def test_samples_are_a_table_of_each_evaluation(small, tmp_path):
    config = small.settings(steps=4, eval_every=2, eval_prompts=4, samples=3, **{"optimizer.learning_rate": 5e-2})
    rows = small.trainer(config, held_out=HELD_OUT, keep=tmp_path).run().samples
    assert [row["step"] for row in rows] == [2, 2, 2, 4, 4, 4]
    assert [row["before"] for row in rows[:3]] == [row["before"] for row in rows[3:]]
    assert set(rows[0]) == {
        "step", "prompt", "before", "after", "scores_before", "scores_after", "reward_before", "reward_after",
    }  # fmt: skip
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows  # and while the run goes on, they can be read


def test_held_out_prompts_are_never_trained_on():
    items = list(range(20))
    train, held = schedule.hold_out(items, 5, seed=1)
    assert sorted(train + held) == items and len(held) == 5 and train == sorted(train)
    assert schedule.hold_out(items, 5, seed=1) == (train, held) != schedule.hold_out(items, 5, seed=2)
    assert schedule.hold_out(items, 0, seed=1) == (items, [])
    with pytest.raises(UserError, match="leaves none of the 20"):
        schedule.hold_out(items, 20, seed=1)


def test_an_early_stop_is_evaluated_and_saved(small, tmp_path):
    changes = {"kl.stop": 1e-9, "optimizer.learning_rate": 1e-2}
    config = small.settings(steps=9, eval_every=5, eval_prompts=4, checkpoint_every=5, **changes)
    result = small.trainer(config, held_out=HELD_OUT, keep=tmp_path).run()
    assert len(result.curve) == 2 and "eval/reward" in result.curve[-1]
    assert (tmp_path / "step-00000002.json").is_file()
