"""Objectives that learn while the policy trains, and normalising within a group: how the trainer drives both."""

from __future__ import annotations

import math

import pytest
import torch

from morlaif.errors import UserError
from morlaif.rl import advantages
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

NAMES = ("early", "different")


def objective(normalizer: str = "running", scalarizer=None) -> Objective:
    if scalarizer is None:
        params = {
            "objectives": None, "constraints": ["different"], "thresholds": [0.5], "initial": 1.0, "step_size": 0.2,
            "maximum": 10.0, "rescale": True,
        }  # fmt: skip
        function = "morlaif.scalarize.functions.lagrangian"
        scalarizer = resolve(ScalarizerSettings(name="lagrangian", function=function, params=params))
    mean, scale, one = torch.tensor([2.0, 3.0]), torch.tensor([1.5, 0.7]), torch.ones(2)
    return Objective(NAMES, mean, scale, one, torch.tensor([1.0, 2.0]), scalarizer, normalizer, responses=20)


def timeless(curve):
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in curve]


@pytest.mark.slow
def test_a_step_is_observed_once_and_before_its_reward(small):
    """Replay the scores that the trainer saw: the logged reward and λ are those of observe, then ask."""
    seen = []

    def reward(prompts, responses):
        seen.append(small.reward(prompts, responses))
        return seen[-1]

    rows = small.trainer(small.settings(steps=4), reward=reward, objective=objective()).run().curve
    replay = objective()
    for row, scores in zip(rows, seen, strict=True):
        replay.observe(scores)
        assert row["objective/lambda/different"] == replay.learnt()["lambda/different"]
        assert math.isclose(row["reward"], replay(scores).mean().item(), rel_tol=1e-6, abs_tol=1e-7)
        # the log of each principle keeps the frozen yardstick
        assert math.isclose(row["score/early"], ((scores[:, 0] - 2) / 1.5).mean().item(), rel_tol=1e-5, abs_tol=1e-6)
    multipliers = [row["objective/lambda/different"] for row in rows]
    assert len(set(multipliers)) == 4


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["running", "frozen"])
def test_killed_and_resumed_repeats_the_unbroken_run(small, tmp_path, normalizer):
    config = small.settings(steps=6, checkpoint_every=2, eval_every=3, eval_prompts=4, samples=2)
    held_out = {"held_out": small.prompts[:4]}
    unbroken = objective(normalizer)
    expected = small.trainer(config, objective=unbroken, **held_out).run()

    def kill(row):
        if row["step"] == 5:  # one step after the checkpoint: λ has moved on, and must come back
            raise Killed

    keep = tmp_path / "shared"
    with pytest.raises(Killed):
        small.trainer(config, keep=keep, objective=objective(normalizer), **held_out).run(kill)
    resumed = objective(normalizer)
    found = small.trainer(config, keep=keep, objective=resumed, **held_out).run()
    assert timeless(found.curve) == timeless(expected.curve) and found.samples == expected.samples
    assert resumed.state_dict() == unbroken.state_dict() != objective(normalizer).state_dict()


# --- group ---


def grouped_settings(small, **changes):
    usual = {"samples_per_prompt": 4, "critic.kind": "none", "shaping.missing_eos": "none", "kl.coef": 0.0}
    return small.settings(**(usual | changes))


def captured(small, monkeypatch, config, made, reward=None):
    """The rewards that the estimator gets, summed over tokens, and the scores of the first step."""
    seen, got = [], []
    name = config.advantage
    estimator = getattr(advantages, name)

    def spy(trajectories):
        got.append(trajectories.rewards.sum(1))
        return estimator(trajectories)

    spy.traits = estimator.traits

    def scored(prompts, responses):
        seen.append((reward or small.reward)(prompts, responses))
        return seen[-1]

    monkeypatch.setattr(advantages, name, spy)
    row = small.trainer(config, objective=made, reward=scored).run().curve[0]
    return got[0], seen[0], row


@pytest.mark.parametrize(
    ("advantage", "normalizer"), [("gdpo", "frozen"), ("gdpo", "group"), ("rloo", "group"), ("gdpo", "none")]
)
def test_each_objective_is_normalised_within_its_group_once(small, monkeypatch, advantage, normalizer):
    """By the formula of arXiv 2601.05242: Σ w_k (r_k - mean of the group) / (deviation of the group + 1e-4)."""
    config = grouped_settings(small, steps=1, advantage=advantage)
    got, scores, row = captured(small, monkeypatch, config, objective(normalizer, linear))
    want = []
    for start in range(0, 12, 4):
        group = scores[start : start + 4].double()
        mean = group.sum(0) / 4
        deviation = ((group - mean).square().sum(0) / 3).sqrt()
        want.append(((group - mean) / (deviation + 1e-4)) @ torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(got.double(), torch.cat(want), atol=1e-4, rtol=1e-4)
    # the log keeps the objective on frozen statistics, whose mean says something
    frozen = objective(normalizer, linear)(scores).mean().item()
    assert math.isclose(row["reward"], frozen, rel_tol=1e-5, abs_tol=1e-6) and abs(frozen) > 1e-2


@pytest.mark.slow
def test_scale_and_offset_of_a_model_do_not_matter_within_groups(small, monkeypatch):
    config = grouped_settings(small, steps=1, advantage="gdpo", **{"shaping.constant_score": "allow"})
    got = []
    for scale, offset in ((1.0, 0.0), (40.0, -300.0)):
        reward = lambda p, r, s=scale, o=offset: small.reward(p, r) * torch.tensor([1.0, s]) + o  # noqa: E731
        got.append(captured(small, monkeypatch, config, objective("group", linear), reward)[0])
        monkeypatch.undo()
    torch.testing.assert_close(got[0], got[1], atol=5e-3, rtol=5e-3)


def test_groups_need_several_answers(small):
    with pytest.raises(UserError, match="set samples_per_prompt above 1"):
        small.trainer(small.settings(), objective=objective("group", linear))
