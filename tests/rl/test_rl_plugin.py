"""An estimator and a policy loss from a package outside the tree."""

from __future__ import annotations

import math
from dataclasses import make_dataclass

import pytest
import torch
from pydantic import ValidationError

from morlaif.planning.contents import Contents
from morlaif.rl.advantages import Trajectories
from morlaif.rl.losses import Actions
from morlaif.rl.registry import ESTIMATORS, LOSSES, with_params

CHANGES = {
    "advantage": "quantile", "advantage_params": {"quantile": 0.5}, "critic.kind": "none", "samples_per_prompt": 4,
    "loss": "morlaif_plugin.losses.sequence_clip", "loss_params": {"width": 0.02},
}  # fmt: skip


@pytest.fixture(autouse=True)
def installed(plugin):
    """As if by pip."""


@pytest.mark.slow
def test_a_run_learns_with_both(small):
    rows = small.trainer(small.settings(steps=2, **CHANGES)).run().curve
    assert rows[0]["first_ratio_error"] == 0.0 and math.isfinite(rows[1]["policy_loss"]) and rows[1]["grad_norm"] > 0
    usual = small.trainer(small.settings(steps=2, **CHANGES | {"loss": "clip", "loss_params": {}})).run().curve
    assert usual[0]["reward"] == rows[0]["reward"] and usual[0]["policy_loss"] != rows[0]["policy_loss"]


def test_the_estimator_by_hand():
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    totals = torch.tensor([1.0, 2.0, 9.0, 4.0])
    rewards = torch.stack([torch.zeros(4), totals], 1).where(mask, torch.tensor(0.0))
    rewards[~mask[:, 1], 0] = totals[~mask[:, 1]]
    estimate = with_params(ESTIMATORS, "quantile", {"quantile": 0.5})
    gains, targets = estimate(Trajectories(rewards, torch.zeros(4, 2), mask, 4, 1.0, 1.0))
    assert gains.tolist() == [[-2, -2], [-1, 0], [6, 6], [1, 0]] and targets is None


def test_the_loss_by_hand():
    """Two tokens whose ratios are e and 1/e: together they have not moved, so nothing is clipped."""
    old, advantages = torch.zeros(3), torch.tensor([1.0, 1.0, 2.0])
    actions = Actions(torch.tensor([1.0, -1.0, 1.0]), old, old, advantages, torch.tensor([0, 0, 1]), 0.2)
    loss = with_params(LOSSES, CHANGES["loss"], {"width": 0.02})(actions)
    torch.testing.assert_close(loss, torch.tensor([-1.0, -1.0, -2.04]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advantage": "quantil"}, r"no estimator 'quantil'\. Did you mean 'quantile'\? Known: gae, .*quantile"),
        ({"advantage_params": {"q": 0.5}}, r"advantage_params\.q: .*no such parameter \(it has: quantile\)"),
        ({"advantage_params": {"quantile": 2}}, r"advantage_params\.quantile of 'quantile': .*less than or equal to 1"),
        ({"loss_params": {}}, r"loss_params\.width is missing"),
        ({"samples_per_prompt": 1}, "quantile compares answers to one prompt"),
        ({"critic.kind": "shared"}, "quantile has no critic"),
        ({"loss": "clp"}, r"no policy_loss 'clp'\. Did you mean 'clip'\?"),
        ({"loss": "morlaif_plugin.losses.sequence"}, r"has no 'sequence'"),
    ],
)
def test_a_mistake_is_one_line(small, change, message):
    with pytest.raises(ValidationError, match=message):
        small.settings(**CHANGES | change)


def test_their_source_is_in_the_digest_and_ours_is_not(small):
    reads = make_dataclass("Reads", ["ppo"])
    theirs = Contents(None).of(reads(small.settings(**CHANGES)))
    assert theirs.keys() == {"ppo.advantage", "ppo.loss"}
    assert not Contents(None).of(reads(small.settings()))
