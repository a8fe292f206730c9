"""Nothing is learnt that was not sampled: a stop string cuts the text of a response, never its ids."""

from __future__ import annotations

import pytest
import torch
from small_ppo import llama

STOP = ["w9", "w17"]  # ids 12 and 20


def never_ends():
    """A policy with a bias on each logit, which would end of itself once in a thousand million tokens."""
    model = llama()
    head = torch.nn.Linear(16, 32, bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight * 0.5)
        head.bias.zero_()[:3] = -20.0  # <pad>, <eos>, <unk>
    model.lm_head = head
    model.config.tie_word_embeddings = False
    return model


def gradients(run):
    """The gradient of each bias after every update, before it is clipped."""
    found = []
    run.models.model.lm_head.bias.register_hook(lambda grad: found.append(grad.clone()))
    return found


@pytest.mark.parametrize("score_at", ["last_token", "after_eos"])
def test_an_end_that_was_never_sampled_gets_no_gradient(small, score_at):
    config = small.settings(
        steps=1, rollouts=24, max_new_tokens=12, micro_batch_size=24, epochs=1, minibatches=1, stop=STOP,
        **{"shaping.score_at": score_at},
    )  # fmt: skip
    run = small.trainer(config, small.models(config, never_ends()))
    rows, seen = [], gradients(run)
    sample, reward = run.rollout.sample, run.reward
    texts = []
    run.rollout.sample = lambda *given: rows.extend(sample(*given)) or rows
    run.reward = lambda prompts, responses: texts.extend(responses) or reward(prompts, responses)
    row = run.run().curve[0]
    by_string = [ids[-1] in (12, 20) for ids in rows]
    assert 4 < sum(by_string) < len(rows)
    assert row["stopped"] == row["ended"] == pytest.approx(sum(by_string) / len(rows))
    assert row["length"] == pytest.approx(sum(map(len, rows)) / len(rows))
    assert not any(1 in ids for ids in rows)
    for ids, text, stopped in zip(rows, texts, by_string, strict=True):
        assert text.split() == [f"w{i - 3}" for i in ids[: len(ids) - stopped]]
    (grad,) = seen
    assert grad[1].abs() < 1e-6 < 1e-3 < grad.abs().max()


def test_rows_that_end_by_themselves_are_not_counted_as_stopped(small):
    row = small.trainer(small.settings(steps=1, rollouts=48, stop=["nothing"])).run().curve[0]
    assert row["stopped"] == 0 < row["ended"]


def test_a_stopped_response_is_not_one_that_was_cut_off(small):
    """What missing_eos punishes is the limit of the length alone."""
    config = small.settings(
        steps=1,
        rollouts=24,
        max_new_tokens=6,
        stop=STOP,
        **{"shaping.missing_eos": "replace", "shaping.missing_eos_value": -50.0},
    )
    run = small.trainer(config, small.models(config, never_ends()))
    row = run.run().curve[0]
    assert 0 < row["stopped"] < 1
    assert row["shaped_reward"] > -50 * (1 - row["stopped"]) - 1
