"""One policy for all weights under PPO: at constant weights the training that there was; it follows others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_ppo
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.models.generate import generate
from morlaif.rl import schedule
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import PPOSettings
from morlaif.rl.steered import Steered, steering_of
from morlaif.rl.trainer import PPOTrainer
from morlaif.scalarize.functions import linear, max_min
from morlaif.scalarize.objective import Objective
from morlaif.steer.conditioning import Shares, Steering
from morlaif.steer.settings import SteerSettings

NAMES = ("early", "different")
TEXT = SteerSettings(kind="text", alpha=1.0, steps=100, principles=None)
LORA = SteerSettings(kind="lora", alpha=1.0, steps=100, principles=None)
GROUPED = {"advantage": "rloo", "critic.kind": "none", "samples_per_prompt": 4, "whiten_advantages": False}


def objective(scalarizer: Any = linear, weight: Sequence[float] = (1.0, 1.0), **more: Any) -> Objective:
    zero, one = torch.zeros(2), torch.ones(2)
    return Objective(NAMES, zero, one, one, torch.tensor(weight), scalarizer, **({"normalizer": "none"} | more))


class Silent(Steering):
    """Takes weights, and is told none."""

    def told(self, messages: Sequence[Message], weights: Any) -> list[Message]:
        return list(messages)


class Words(Steering):
    """Ten words that the tests' tokenizer has: w27 for each tenth of the first weight, w28 for the rest."""

    def told(self, messages: Sequence[Message], weights: Any) -> list[Message]:
        tenths = round(10 * weights[self.names[0]])
        return [{"role": "system", "content": " ".join(["w27"] * tenths + ["w28"] * (10 - tenths))}, *messages]


class Always(Steered):
    """Draws the arm's own weights."""

    def weights(self, step: int, prompts: int, group: int) -> list[Shares]:
        return [self.steering.own] * (prompts * group)

    def held_out(self, prompts: int) -> list[Shares]:
        return [self.steering.own] * prompts


def steered(
    kind: type[Steering] = Words, how: type[Steered] = Steered, goal: Objective | None = None, **more: Any
) -> Any:
    found = steering_of(goal or objective(), TEXT)
    assert found is not None
    return how(kind("text", found.names, found.own), 1.0, 3, **more)


def new(row: dict[str, float]) -> bool:
    return any(key.startswith(("weight/", "follows/")) for key in row)


def without(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith(("weight/", "follows/"))} for row in curve]


# --- the oracle: one weight for all is the training that there was ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scalarizer", "weight", "normalizer", "changes"),
    [
        (linear, (1.0, 1.0), "none", {}),
        (max_min, (0.5, 2.0), "running", {"shaping.score_at": "after_eos"}),
        (linear, (3.0, 1.0), "group", GROUPED),
        (max_min, (1.0, 1.0), "none", {**GROUPED, "overlap": True, "minibatches": 2}),
    ],
)
def test_constant_weights_that_nobody_is_told_change_nothing(
    small: SimpleNamespace, scalarizer: Any, weight: Any, normalizer: str, changes: dict[str, Any]
) -> None:
    config = small.settings(eval_prompts=3, eval_every=2, samples=2, **changes)
    goals = [objective(scalarizer, weight, normalizer=normalizer, responses=20) for _ in range(2)]
    plain = small.trainer(config, objective=goals[0], held_out=small.prompts[:3])
    told = small.trainer(
        config, objective=goals[1], held_out=small.prompts[:3], steered=steered(Silent, Always, goals[1])
    )
    before, after = plain.run(), told.run()
    assert small_ppo.timeless(before.curve) == small_ppo.timeless(without(after.curve))
    assert torch.equal(small_ppo.weights(plain.models), small_ppo.weights(told.models))
    assert goals[0].state_dict() == goals[1].state_dict()
    assert new(after.curve[0]) and not new(before.curve[0])


def lora_models(config: PPOSettings, parts: int) -> ActorCritic:
    model = small_ppo.llama()
    torch.manual_seed(0)
    return ActorCritic(model, config, steered=parts)


def lora_settings(**changes: Any) -> PPOSettings:
    return small_ppo.settings(**{"policy.kind": "lora", "policy.r": 2, "policy.alpha": 4.0, **changes})


@pytest.mark.slow
def test_parts_of_a_constant_scale_are_a_plain_adapter_of_their_rank(small: SimpleNamespace) -> None:
    wide = small.models(lora_settings(**{"policy.r": 4, "policy.alpha": 8.0}), seed=0)
    parts = lora_models(lora_settings(), 2)
    for name, value in parts.named_parameters():
        if name.endswith("steer_scale"):
            value.requires_grad_(False)  # s · w = 1 stays
    plain = small.trainer(lora_settings(**{"policy.r": 4, "policy.alpha": 8.0}), made=wide, objective=objective())
    told = small.trainer(lora_settings(), made=parts, objective=objective(),
                         steered=steered(Silent, Always, parts=parts.parts))  # fmt: skip
    assert small_ppo.timeless(plain.run().curve) == small_ppo.timeless(without(told.run().curve))
    assert torch.equal(small_ppo.weights(wide), small_ppo.weights(parts))


# --- what is drawn, what is told, who hears it ---


@given(st.integers(0, 50), st.integers(1, 5), st.integers(1, 4), st.floats(0.05, 20))
@examples(max_examples=25, deadline=None)
def test_draws_are_of_the_step_and_the_same_within_a_group(step: int, prompts: int, group: int, alpha: float) -> None:
    how = Steered(Steering("text", NAMES, (0.5, 0.5)), alpha, 7)
    found = how.weights(step, prompts, group)
    assert found == how.weights(step, prompts, group)
    assert len(found) == prompts * group and all(abs(sum(row) - 1) < 1e-9 and min(row) >= 0 for row in found)
    assert all(len(set(found[i : i + group])) == 1 for i in range(0, len(found), group))


def test_each_step_and_seed_draws_anew() -> None:
    how = steered()
    assert how.weights(0, 6, 1) != how.weights(1, 6, 1)
    assert how.weights(0, 6, 1) != Steered(how.steering, 1.0, 4).weights(0, 6, 1)
    assert len(set(how.weights(0, 6, 1))) > 1


@pytest.mark.slow
def test_the_reward_and_the_reference_read_the_prompt_without_weights(small: SimpleNamespace) -> None:
    seen: list[Any] = []

    def reward(prompts: Any, texts: Any) -> torch.Tensor:
        seen.extend(prompts)
        return small_ppo.word_reward(prompts, texts)

    config = small.settings(eval_prompts=4, samples=4, **GROUPED)
    made = small.trainer(config, objective=objective(), held_out=small.prompts[:4], steered=steered(), reward=reward)
    asked: list[Any] = []
    sample = made.rollout.sample
    made.rollout.sample = lambda prompts, *rest: asked.extend(prompts) or sample(prompts, *rest)
    found = made.answer(0)
    assert [p[0]["role"] for p in seen] == ["user"] * 4
    weights = made.held_out_weights
    told = [
        prompt_ids(small.tokenizer, made.steered.told(p, w)) for p, w in zip(small.prompts[:4], weights, strict=True)
    ]
    assert asked == told and all(len(ids) > len(plain) for ids, plain in zip(told, made.held_out_plain, strict=True))

    # by hand, one row at a time: the policy behind the told prompt, the reference behind the plain one
    apart = 0.0
    responses = sample(told, schedule.generator(3, "held out", 0))
    for ids, plain, response in zip(told, made.held_out_plain, responses, strict=True):
        own, other = (
            made.models.model(torch.tensor([[*p, *response]])).logits[0, len(p) - 1 : -1].log_softmax(-1)
            for p in (ids, plain)
        )
        at = torch.tensor(response)[:, None]
        apart += (own.gather(1, at) - other.gather(1, at)).sum().item()
    assert found.kl == pytest.approx(apart / 4, abs=1e-4) and abs(found.kl) > 1e-3
    rows = made.step(0)
    assert {p[0]["role"] for p in seen} == {"user"} and rows["weight/early"] + rows[
        "weight/different"
    ] == pytest.approx(1)


def test_a_response_is_rewarded_by_the_weights_it_was_told() -> None:
    goal = objective(max_min, (1.0, 3.0))
    how = steered(goal=goal)
    scores = torch.tensor([[1.0, 2.0], [3.0, 1.0], [1.0, 5.0]])
    values = how.objective(goal, [(0.25, 0.75), (0.5, 0.5), (1.0, 0.0)])(scores)
    assert values.tolist() == [1.0, 2.0, 4.0]  # own weights: min(1, 6); min(2·3, 2·1); 4 · 1 alone


def test_the_weights_of_others_stay() -> None:
    goal = Objective(("a", "b", "c"), torch.zeros(3), torch.ones(3), torch.ones(3), torch.tensor([1.0, 2, 1]), linear)
    found = steering_of(goal, SteerSettings(kind="text", alpha=1.0, steps=100, principles=("a", "b")))
    assert found is not None and found.own == pytest.approx((1 / 3, 2 / 3))
    rows = Steered(found, 1.0, 0).objective(goal, [(1.0, 0.0)]).weight
    assert rows.tolist() == [[3.0, 0.0, 1.0]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "lora"])
def test_a_killed_run_goes_on_bit_for_bit(small: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    config = lora_settings(steps=4, checkpoint_every=1, **GROUPED)

    def trainer(keep: str) -> PPOTrainer:
        made = lora_models(config, 2) if kind == "lora" else small.models(config, seed=0)
        how = steered(Words, parts=made.parts)
        return small.trainer(config, made=made, objective=objective(), keep=tmp_path / keep, steered=how)

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt

    whole = trainer("whole")
    curve = whole.run().curve
    with pytest.raises(KeyboardInterrupt):
        trainer("killed").run(stop)
    again = trainer("killed")
    assert small_ppo.timeless(again.run().curve) == small_ppo.timeless(curve)
    assert torch.equal(small_ppo.weights(again.models), small_ppo.weights(whole.models))
    assert len({row["weight/early"] for row in curve}) > 1


@pytest.mark.slow
def test_what_is_sampled_ahead_is_at_its_own_steps_weights(small: SimpleNamespace) -> None:
    config = lora_settings(overlap=True, **GROUPED)
    made = lora_models(config, 2)
    how = steered(Silent, parts=made.parts)
    trainer = small.trainer(config, made=made, objective=objective(), steered=how)
    begin, seen = trainer.rollout.begin, []
    trainer.rollout.begin = lambda *rest: seen.append(list(made.parts.weights)) or begin(*rest)
    sample = trainer.rollout.sample
    trainer.rollout.sample = lambda *rest: seen.append(list(made.parts.weights)) or sample(*rest)
    trainer.run()
    wanted = [list(how.weights(step, 3, 4)[0]) for step in range(3)]
    assert [row for k, row in enumerate(seen) if k == 0 or row != seen[k - 1]] == wanted


# --- mistakes ---


def test_what_cannot_be_steered() -> None:
    with pytest.raises(UserError, match=r"ppo.steer.principles: 'erly' does not count .* Did you mean 'early'\?"):
        steering_of(objective(), SteerSettings(kind="text", alpha=1.0, steps=100, principles=("erly", "different")))
    with pytest.raises(UserError, match="has 'early' alone"):
        steering_of(objective(weight=(1.0, 0.0)), TEXT)
    assert steering_of(objective(), SteerSettings(kind="none", alpha=2.0, steps=1, principles=None)) is None
    with pytest.raises(ValueError, match=r"steer.kind: lora scales parts of an adapter"):
        small_ppo.settings(**{"steer.kind": "lora"})
    with pytest.raises(ValueError, match="gradient_weights: mgda weighs principles by itself"):
        lora_settings(**{"steer.kind": "text", "gradient_weights": "mgda"})


# --- it learns ---


def apart_reward(prompts: Any, responses: Any) -> torch.Tensor:
    """Shares of w0 … w7 and of w8 … w15 among a response's words: what one gains the other loses."""
    rows = [[int(word[1:]) for word in text.split() if word[0] == "w"] for text in responses]
    return torch.tensor([[sum(low <= n < low + 8 for n in row) / max(1, len(row)) for low in (0, 8)] for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "lora"])
def test_the_policy_follows_each_weight(small: SimpleNamespace, kind: str) -> None:
    changes = {"policy.kind": "lora", "policy.r": 4, "policy.alpha": 8.0} if kind == "lora" else {}
    config = small.settings(**GROUPED, **changes, **{
        "steps": 40, "rollouts": 64, "kl.coef": 0.02, "optimizer.learning_rate": 1e-2 if kind == "lora" else 3e-3,
        "epochs": 1, "micro_batch_size": 64,
    })  # fmt: skip
    made = lora_models(config, 2) if kind == "lora" else small.models(config, seed=0)
    how = steered(Words, parts=made.parts) if kind == "text" else Steered(
        Steering("lora", NAMES, (0.5, 0.5)), 1.0, 3, made.parts
    )  # fmt: skip
    trainer = small.trainer(config, made=made, objective=objective(), steered=how, reward=apart_reward)
    trainer.run()
    prompts, means = small.prompts * 20, []
    for first in (0.0, 0.25, 0.5, 0.75, 1.0):
        ids = [prompt_ids(small.tokenizer, how.told(p, (first, 1 - first))) for p in prompts]
        with how.at([(first, 1 - first)]):
            rows = generate(
                made.model, small.tokenizer, ids, max_new_tokens=6, temperature=1.0, batch_size=240,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
        means.append(apart_reward(prompts, [small.tokenizer.decode(row) for row in rows]).mean(0))
    table = torch.stack(means)
    assert table[-1, 0] > table[0, 0] + 0.2 and table[0, 1] > table[-1, 1] + 0.2
    assert (table[1:, 0] - table[:-1, 0]).min() > -0.03 and (table[1:, 1] - table[:-1, 1]).max() < 0.03
