"""The presets that are published algorithms: what each says, and that each finds a known optimum."""

from __future__ import annotations

import pytest
import torch
from small_ppo import algorithm, llama

ALGORITHMS = ("rloo", "grpo", "dr_grpo", "gdpo", "reinforce_pp", "rlaif")


def solved(small, name: str, reward, **changes):
    """The curve of a policy that learns by the preset, sizes and rates apart."""
    usual = {
        "steps": 25, "rollouts": 64, "micro_batch_size": 64, "minibatches": 2, "kl.coef": 0.0,
        "shaping.missing_eos": "none", "shaping.constant_score": "allow", "optimizer.learning_rate": 1e-2,
    }  # fmt: skip
    config = small.settings(**(algorithm(name) | usual | changes))
    made = small.models(config, llama())
    prompts = [[{"role": "user", "content": f"w{i} w2"}] for i in range(4)]
    given = {"reward": reward, "objective": lambda s: s.sum(1), "prompts": prompts}
    return small.trainer(config, made, names=("a", "b"), **given).run().curve


def arms(prompts, responses):
    """Two arms, w5 and w6, of which the first pays more; all else costs. Two principles that add up to it."""
    pay = torch.tensor([{"w5": 1.0, "w6": 0.3}.get(text, -1.0) for text in responses])
    return torch.stack([0.7 * pay, 0.3 * pay], 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_two_armed_bandit_is_solved(small, name):
    curve = solved(small, name, arms, max_new_tokens=1)
    assert curve[0]["reward"] < -0.5 and curve[-1]["reward"] > 0.9


def chain(prompts, responses):
    """Two tokens. A first w0 to w3 opens the door to a second w4 to w11, which then pays 1 and costs without it.

    The optimum is worth 1; a door alone .3, and w12, the best without a door, .15.
    """
    scores = []
    for text in responses:
        first, second = ([int(word[1:]) if word[0] == "w" else 99 for word in text.split()] + [99, 99])[:2]
        door, room = first < 4, 4 <= second < 12
        pay = 1.0 if door and room else 0.3 if door else 0.15 if first == 12 else 0.0
        scores.append([pay - 0.5 * (room and not door), 0.0])
    return torch.tensor(scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", *ALGORITHMS])
def test_a_decision_process_with_a_known_optimum_is_solved(small, name):
    changes = {"epochs": 1} if name == "paper" else {}
    usual = {"steps": 45, "rollouts": 96, "max_new_tokens": 2, "minibatches": 2, "optimizer.learning_rate": 7e-3}
    curve = solved(small, name, chain, **(usual | changes))
    assert curve[0]["reward"] < 0.2 and curve[-1]["reward"] > 0.9


def test_each_is_the_published_algorithm():
    """Mean of the loss, where the KL is charged, and what is normalised: over tokens, responses, or not at all."""
    found = {name: algorithm(name) for name in ALGORITHMS}
    assert {name: f["advantage"] for name, f in found.items()} == {
        name: "gae" if name == "rlaif" else name for name in ALGORITHMS
    }
    assert {n: (f["loss"], f["loss_aggregation"]) for n, f in found.items()} == {
        "rloo": ("clip_sequence", "sequence"), "grpo": ("clip", "sequence"), "dr_grpo": ("clip", "constant"),
        "gdpo": ("clip", "sequence"), "reinforce_pp": ("clip", "token"), "rlaif": ("reinforce", "constant"),
    }  # fmt: skip
    assert {n: f["whiten_advantages"] for n, f in found.items()} == {
        "rloo": False, "grpo": False, "dr_grpo": False, "gdpo": True, "reinforce_pp": True, "rlaif": False,
    }  # fmt: skip
    assert {n: (f["kl.placement"], f["kl.estimator"], f["kl.coef"]) for n, f in found.items()} == {
        "rloo": ("reward", "k1", 0.05), "grpo": ("loss", "k3", 0.04), "dr_grpo": ("loss", "k3", 0.0),
        "gdpo": ("loss", "k3", 0.04), "reinforce_pp": ("reward", "k1", 0.05), "rlaif": ("reward", "k1", 0.05),
    }  # fmt: skip
    for name, f in found.items():
        assert (f["critic.kind"] == "none") == (name != "rlaif")  # whose baseline is a value
        assert f["epochs"] == 1 and f["gamma"] == 1.0 and not f["whiten_rewards"]
        assert f["shaping.scaling"] == "none" and not f["shaping.center"] and f["kl.controller"] == "fixed"
