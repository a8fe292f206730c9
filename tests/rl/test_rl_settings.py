"""The presets validate; combinations that cannot work say what would."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from morlaif.presets import preset
from morlaif.rl.settings import PPOSettings
from morlaif.settings import identity


def test_paper_preset_is_the_papers(small):

    s = PPOSettings(**preset("ppo", "paper"))
    assert (s.optimizer.learning_rate, s.rollouts, s.epochs, s.kl.coef, s.kl.target, s.kl.horizon) == (
        4e-6,
        128,
        4,
        0.05,
        6,
        10000,
    )
    assert (s.gamma, s.lam, s.clip_range, s.clip_range_value, s.value_coef) == (1, 0.95, 0.2, 0.2, 1)
    assert (s.max_new_tokens, s.temperature, s.shaping.scaling, s.shaping.clip) == (128, 1, "running", 10)
    assert s.kl.controller == "adaptive" and (s.policy.kind, s.policy.r, s.policy.alpha) == ("lora", 8, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advantage": "rloo", "critic.kind": "none"}, "set samples_per_prompt above 1"),
        ({"advantage": "reinforce_pp"}, "set critic.kind: none"),
        ({"critic.kind": "none"}, "gae needs a critic"),
        ({"samples_per_prompt": 5}, "no multiple of samples_per_prompt"),
        ({"minibatches": 99}, "is more than rollouts"),
        ({"kl.estimator": "k3"}, "use k1 there, or placement: loss"),
        ({"kl.placement": "loss"}, "use k2 or k3"),
        ({"critic.init": "pm"}, "needs kind: adapter or separate"),
        ({"critic.kind": "adapter"}, "use policy.kind: lora, or critic.kind: separate"),
        ({"policy.export": "adapter"}, "needs kind: lora"),
        ({"samples": 3}, "samples: 3 is more than eval_prompts: 0"),
        ({"keep": "best"}, "hold out some prompts"),
        ({"vllm.mode": "server"}, "needs server_url"),
        ({"lam": 1.1}, "less than or equal to 1"),
    ],
)
def test_what_cannot_work_is_reported(small, change, message):
    with pytest.raises(ValidationError, match=message):
        small.settings(**change)


def test_what_cannot_change_a_number_is_outside_the_digest(small):
    same = small.settings(checkpoint_every=9, **{"policy.gradient_checkpointing": True})
    assert identity(small.settings()) == identity(same) != identity(small.settings(epochs=3))
