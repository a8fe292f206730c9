"""`ppo.overlap`: step t + 1 is sampled from the policy before step t's update, and the loss knows it."""

from __future__ import annotations

import copy
import logging
from threading import Event

import pytest
import torch
from small_ppo import timeless, weights

from morlaif.errors import MachineError
from morlaif.rl import learner, schedule
from morlaif.rl.experience import collate
from morlaif.rl.vllm_colocated import Sampled
from morlaif.rl.vllm_server import Server

QUICK = {"steps": 2, "epochs": 1, "minibatches": 1, "optimizer.learning_rate": 5e-2}


@pytest.fixture
def steps(small, monkeypatch):
    """A run of two steps: trainer, what each step learnt from, and the policy at its start and before step two."""

    def run(**change):
        seen, policies = [], []
        optimize = learner.optimize

        def spy(engine, experience, *args, **kwargs):
            seen.append(experience)
            policies.append(copy.deepcopy(engine.models.model))
            return optimize(engine, experience, *args, **kwargs)

        monkeypatch.setattr(learner, "optimize", spy)
        made = small.trainer(small.settings(**QUICK, **change))
        made.run()
        return made, seen, policies

    return run


@torch.no_grad()
def logprobs(model, experience):
    """(B, T) by the whole log-softmax of transformers' own logits."""
    table = torch.zeros_like(experience.logprobs)
    for row, (prompt, response) in enumerate(zip(experience.prompts, experience.responses, strict=True)):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        table[row, : len(response)] = logits.log_softmax(-1)[range(len(response)), response]
    return table


def sampled(small, run, model, step):
    """What `model` answers in `step`, by a trainer that never learnt."""
    fresh = small.trainer(run.settings)
    fresh.models.model.load_state_dict(model.state_dict())
    prompts = [fresh.prompt_ids[row] for row in fresh._rows(step)]
    return fresh.rollout.sample(prompts, schedule.generator(run.seed, "sample", step))


@pytest.mark.slow
def test_a_step_is_sampled_before_the_update_of_the_one_before(small, steps):
    run, (first, second), (start, moved) = steps(overlap=True)
    assert first.responses == sampled(small, run, start, 0)
    assert second.responses == sampled(small, run, start, 1) != sampled(small, run, moved, 1)
    assert run.ahead is None, "nothing is sampled for a step that does not come"


def test_without_it_a_step_is_sampled_from_the_policy_as_it_is(small, steps):
    run, (_, second), (_, moved) = steps()
    assert second.responses == sampled(small, run, moved, 1)


def test_the_ratio_is_to_the_policy_that_sampled(steps):
    run, (_, second), (start, moved) = steps(overlap=True)
    old, new = logprobs(start, second), logprobs(moved, second)
    assert torch.allclose(second.logprobs[second.mask], old[second.mask], atol=1e-5)
    ratio = (new - old)[second.mask].exp()
    assert abs(ratio - 1).max() > 0.05, "or the test shows nothing"
    found = run.details[1]
    assert found["updates/ratio_mean"][0] == pytest.approx(ratio.mean().item(), rel=1e-5)
    assert run.curve[1]["first_ratio_error"] == pytest.approx(abs(ratio - 1).max().item(), rel=1e-4)
    assert run.curve[1]["sampler/kl_k3"] > 1e-3 > run.curve[0]["sampler/kl_k3"]
    kl = ((old - second.ref_logprobs) * second.mask).sum(1).mean().item()
    assert run.curve[1]["kl"] == pytest.approx(kl, abs=1e-4)
    assert run.curve[0]["first_ratio_error"] < 1e-5


def test_a_cap_weighs_the_loss_instead(steps):
    """The ratio then is to the policy that begins the step, whose probability over the sampler's weighs each token."""
    run, (_, second), (start, moved) = steps(overlap=True, importance_cap=1.1)
    old, new = logprobs(start, second), logprobs(moved, second)
    assert torch.allclose(second.logprobs[second.mask], new[second.mask], atol=1e-5)
    weight = (new - old).exp().clamp(max=1.1)
    assert torch.allclose(second.weights[second.mask], weight[second.mask], atol=1e-5)
    assert weight[second.mask].min() < 0.95 and (weight[second.mask] == 1.1).any()
    assert run.curve[1]["first_ratio_error"] < 1e-6


@pytest.mark.slow
def test_a_policy_that_stays_learns_the_same(small):
    still = {"optimizer.learning_rate": 1e-30, "steps": 3}
    curves = [small.trainer(small.settings(**still, overlap=overlap)).run().curve for overlap in (False, True)]
    for plain, ahead in zip(*map(timeless, curves), strict=True):
        for key, value in plain.items():
            assert ahead[key] == pytest.approx(value, abs=2e-5), key


def test_a_sampler_that_fails_meanwhile_costs_no_step(small, caplog):
    run = small.trainer(small.settings(**QUICK, overlap=True))

    def failed():
        raise MachineError("no answer")

    run.rollout.begin = lambda *_: failed
    plain = small.models(run.settings)
    run.rollout.sample = lambda prompts, *_: [[5, 1]] * len(prompts)
    with caplog.at_level(logging.WARNING):
        assert len(run.run().curve) == 2
    assert "step 2 is sampled anew" in caplog.text and not torch.equal(weights(run.models), weights(plain))


def test_a_server_works_until_it_is_asked_for_the_answers():
    server, asked = Server.__new__(Server), Event()

    def answer(prompt, seed):
        assert asked.wait(10)
        if seed < 0:
            raise MachineError("gone")
        return Sampled([*prompt, seed], [-1.0])

    server._answer = answer
    finish, fails = server.begin([[1], [2]], [7, 8]), server.begin([[1], [2]], [7, -8])
    asked.set()  # none was answered before
    assert [row.ids for row in finish()] == [[1, 7], [2, 8]]
    with pytest.raises(MachineError, match="gone"):
        fails()


def test_padding_is_not_read(steps):
    """A batch of the second step: the table of the sampler has no more than the tokens of the responses."""
    _, (_, second), _ = steps(overlap=True)
    batch = collate(second.prompts, second.responses, 0, torch.device("cpu"))
    assert batch.mask.equal(second.mask) and second.logprobs[~second.mask].abs().max() == 0
