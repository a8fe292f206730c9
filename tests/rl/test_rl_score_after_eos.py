"""`shaping.score_at: after_eos`, where the score is paid in a state of its own, against a loop over single rows."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from morlaif.rl import learner, optimize
from morlaif.rl.experience import plan_minibatch, with_end

CHANGES = {"shaping.score_at": "after_eos", "whiten_advantages": False, "kl.coef": 0.1, "gamma": 0.9}


def test_a_place_is_added_where_there_is_room():
    assert with_end([[5, 1], [6, 7, 1], [8]], 0, 3) == [[5, 1, 0], [6, 7, 1], [8, 0]]
    minibatch = plan_minibatch([[0, 1]], [[4], [4]], [[5, 1], [6, 7, 1]], 0, torch.device("cpu"), room=3)
    assert (minibatch.tokens, minibatch.states) == (5, 6)


def test_returns_against_a_loop(small, monkeypatch):
    seen = []

    def spy(engine, experience, *args, **kwargs):
        seen.append(experience)
        return optimize.optimize(engine, experience, *args, **kwargs)

    monkeypatch.setattr(learner, "optimize", spy)
    config = small.settings(steps=2, **CHANGES)
    rows = small.trainer(config).run().curve
    assert [row["first_ratio_error"] for row in rows] == [0.0, 0.0]
    assert any(0 < len(r) < config.max_new_tokens for r in seen[1].responses)
    e, gamma = seen[1], config.gamma
    for i, response in enumerate(e.responses):
        n = len(response)
        states = n + (n < config.max_new_tokens)
        assert e.mask[i].sum() == n and e.value_mask[i].sum() == states
        paid = [-config.kl.coef * (e.logprobs[i, t] - e.ref_logprobs[i, t]).item() for t in range(n)] + [0.0]
        paid = paid[:states]
        paid[-1] += e.shaped[i].item()
        values = [*e.values[i, :states].tolist(), 0.0]
        gain = 0.0
        for t in reversed(range(states)):
            gain = paid[t] + gamma * values[t + 1] - values[t] + gamma * config.lam * gain
            assert e.returns[i, t].item() == pytest.approx(gain + values[t], abs=1e-5)
            if t < n:
                assert e.advantages[i, t].item() == pytest.approx(gain, abs=1e-5)


@pytest.mark.slow
def test_the_update_does_not_depend_on_the_micro_batch_size(small):
    weights = []
    for size in (12, 5):
        made = small.trainer(small.settings(steps=1, micro_batch_size=size, **CHANGES))
        made.run()
        weights.append(torch.cat([value.flatten() for value in made.models.trained_state().values()]))
    assert torch.allclose(*weights, atol=2e-5)


def test_only_a_critic_values_states(small):
    with pytest.raises(ValidationError, match="use advantage: gae"):
        small.settings(advantage="reinforce_pp", **{"critic.kind": "none", "shaping.score_at": "after_eos"})
