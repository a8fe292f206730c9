"""A run of DPO: where it begins, what it learns; how a batch is cut and whether it was killed does not matter."""

from __future__ import annotations

import math

import pytest
import torch

from morlaif.dpo.pairs import Pairs, Preference, pairs_of
from morlaif.errors import UserError
from morlaif.models.layers import trunk_of

LORA = {"policy": {"kind": "lora", "r": 4}}


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{}, LORA], ids=["full", "lora"])
def test_it_begins_at_log_2_and_learns_the_pairs(policy, small):
    config = small.settings(**policy, max_steps=14)
    trainer = small.trainer(config, held_out=small.pairs(config), prompts=small.prompts)
    before = trainer.sequence_logprobs(trainer.pairs)
    torch.testing.assert_close(trainer.sequence_logprobs(trainer.pairs, reference=True), before)
    found = trainer.run()
    first, last = found.curve[0], found.curve[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["reward"] == pytest.approx(0, abs=1e-6)
    assert last["loss"] < 0.66 and last["accuracy"] > 0.8 and last["reward"] > 0.1
    assert last["reward"] == pytest.approx(last["reward_better"] - last["reward_worse"], abs=1e-9)
    assert [row["step"] for row in found.curve] == list(range(1, 15))
    # what was the reference still is, and what is said of it was said once
    torch.testing.assert_close(found.reference, before)
    torch.testing.assert_close(trainer.sequence_logprobs(trainer.pairs, reference=True), before, atol=1e-5, rtol=0)
    assert last["eval/accuracy"] > 0.8 and last["kl"] > 0.01 and 0 < last["length"] <= 6


@pytest.mark.slow
def test_the_kl_is_that_of_the_policys_own_answers(small):
    config = small.settings(max_steps=1)
    trainer = small.trainer(config, prompts=small.prompts)
    assert trainer.look()["kl"] == pytest.approx(0, abs=1e-5)
    trainer.run()
    row = trainer.look()
    with trainer.models.as_reference() as reference, torch.no_grad():
        states = trunk_of(reference)(input_ids=torch.tensor([[5, 4, 3]])).last_hidden_state
    assert states.isfinite().all() and row == trainer.look()  # the same noise each time


@pytest.mark.slow
@pytest.mark.parametrize("micro", [1, 5, 100])
def test_how_a_batch_is_cut_does_not_matter(micro, small):
    config = small.settings()
    want, other = small.trainer(config), small.trainer(small.settings(micro_batch_size=micro))
    rows, others = want.run().curve, other.run().curve
    for row, its in zip(rows, others, strict=True):
        assert row == pytest.approx(its, abs=2e-5)
    torch.testing.assert_close(small.weights(want.models), small.weights(other.models), atol=2e-4, rtol=0)


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{}, LORA], ids=["full", "lora"])
def test_killed_at_any_time_it_ends_the_same_bit_by_bit(policy, small):
    config = small.settings(**policy, checkpoint_every=2, eval_every=3, max_steps=7)
    more = {"held_out": small.pairs(config), "prompts": small.prompts}
    whole = small.trainer(config, keep="whole", **more)
    want = whole.run()
    for after in (1, 3, 5):  # before its first checkpoint, between two, and again after it has gone on

        def stop(row, after=after):
            if row["step"] == after:
                raise Killed

        with pytest.raises(Killed):
            small.trainer(config, keep="killed", **more).run(stop)
    again = small.trainer(config, keep="killed", **more)
    seen = []
    found = again.run(lambda row: seen.append(row["step"]))
    assert seen == [5, 6, 7]
    assert found.curve == want.curve
    assert torch.equal(small.weights(again.models), small.weights(whole.models))
    assert torch.equal(found.reference, want.reference)


@pytest.mark.slow
def test_a_step_is_told_before_its_checkpoint_stands(small):
    config = small.settings(checkpoint_every=1, max_steps=3)
    trainer, told = small.trainer(config, keep="told"), []
    trainer.run(lambda row: told.append((row["step"], trainer.checkpoints.last())))
    assert told == [(1, None), (2, 1), (3, 2)] and trainer.checkpoints.last() == 3


@pytest.mark.slow
def test_a_checkpoint_of_other_pairs_is_an_error(small):
    config = small.settings(checkpoint_every=2)
    small.trainer(config).run()
    with pytest.raises(UserError, match="belongs to other settings"):
        small.trainer(config, small.pairs(config, target=0.7)).run()


@pytest.mark.slow
def test_pairs_without_a_difference_are_left_out(small):
    prompt = small.prompts[0]
    rows = [Preference(prompt, "w1", "w1"), Preference(prompt, "w1", "w2", 0.5), Preference(prompt, "w1", "w2", 0.4)]
    assert pairs_of(small.tokenizer, rows, small.settings()).target.tolist() == [[0.5], [0.4]]
    assert pairs_of(small.tokenizer, rows, small.settings(targets="hard")).target.tolist() == [[0.0]]
    with pytest.raises(UserError, match="nothing to learn from"):
        small.trainer(small.settings(), pairs_of(small.tokenizer, rows[:1], small.settings()))


def test_prompts_are_cut_on_the_left_and_responses_end(small):
    config = small.settings(max_length=5)
    words = [{"role": "user", "content": "w1 w2 w3 w4"}]
    pairs = pairs_of(small.tokenizer, [Preference(words, "w5 w6 w7 w8 w9", "w5")], config)
    assert pairs.chosen[0].ids == [6, 7, 8, 9, 1] and pairs.chosen[0].start == 2
    assert pairs.rejected[0].ids == [6, 7, 8, 1]


def test_steps_are_passes_over_the_pairs(small):
    assert small.settings(max_steps=None, epochs=2.0).steps(24) == 6
    assert small.settings(max_steps=None, epochs=0.1).steps(24) == 1
    assert small.settings(max_steps=5, epochs=2.0).steps(24) == 5


def test_a_loss_of_the_users_own(plugin, small):
    config = small.settings(loss="morlaif_plugin.pairs.hinge", max_steps=2)
    assert small.trainer(config).run().curve[0]["loss"] == pytest.approx(1.0, abs=1e-6)


def test_what_does_not_learn_is_not_moved_by_pairs_that_count_nothing(small):
    config = small.settings(max_steps=2)
    pairs = small.pairs(config)
    none = Pairs(pairs.chosen, pairs.rejected, pairs.target, 0 * pairs.count, pairs.margin, pairs.scale)
    trainer = small.trainer(config, none)
    before = small.weights(trainer.models).clone()
    trainer.run()
    assert torch.equal(before, small.weights(trainer.models))
