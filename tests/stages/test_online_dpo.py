"""Rounds of DPO on a tiny policy: what is learnt, one round against offline DPO, references, more rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import online
import pytest
import torch
from composed import config

from morlaif.data.records import different_prompts, load_split
from morlaif.dpo.pairs import Pairs
from morlaif.dpo.trainer import DPOTrainer, policy_with_reference
from morlaif.models.load import load_policy
from morlaif.online.pairing import best_against, dialogue, priced
from morlaif.online.samples import Sampled, sample
from morlaif.online.settings import OnlineDPOSettings
from morlaif.planning.plan import plan
from morlaif.preference.model import tokenize
from morlaif.presets import preset
from morlaif.rl import schedule
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.stages.online_dpo import STAGE
from morlaif.stages.work.online_dpo import build

SMALL = {
    "n": 4, "eval_prompts": 6, "sampling": {"max_new_tokens": 8, "batch_size": 16},
    "dpo": {"max_steps": 8, "batch_size": 6, "micro_batch_size": 6, "checkpoint_every": 0,
            "optimizer": {"learning_rate": 0.005, "warmup_steps": 0}},
}  # fmt: skip
MAX_MIN = ScalarizerSettings(name="max_min", function="morlaif.scalarize.functions.max_min", params={})


def settings(**changes: Any) -> OnlineDPOSettings:
    values = preset("online_dpo", "toy", **SMALL)
    values["sampling"]["stop"] = []
    values["dpo"] |= {"stop": [], "max_new_tokens": 8}
    return OnlineDPOSettings(**values | changes)


@pytest.fixture(scope="module")
def needs(tmp_path_factory) -> dict[str, Path]:
    return online.folders(tmp_path_factory.mktemp("store"))


def made(root: Path, needs: dict[str, Path], before: Path | None = None, number: int = 1, **more: Any) -> Path:
    given = needs | ({} if before is None else {f"online_dpo/arm/{number - 1}": before})
    reads = {"online_dpo": more.pop("online_dpo", settings()), "round": number}
    job = online.job(STAGE, f"online_dpo/arm/{number}", root, given, **reads, **more)
    build(job)
    return job.out


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def first(tmp_path_factory, needs) -> Path:
    return made(tmp_path_factory.mktemp("first"), needs)


def response(*ids: int) -> list[int]:
    return list(ids)


def sampled(*responses: list[int]) -> Sampled:
    return Sampled([1, 2], list(responses), ["x"] * len(responses), [3] * len(responses), [True] * len(responses))


def test_the_best_is_set_against_the_worst_or_any_other():
    one = sampled(response(5), response(6), response(7, 7), response(8, 8, 8, 8))
    values = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    assert best_against([one], values, "max_min") == [(0, 1, 3)]
    drawn = {best_against([one], values, "max_random", seed=seed)[0] for seed in range(30)}
    assert drawn == {(0, 1, k) for k in (0, 2, 3)}
    assert not best_against([one], values, "max_min", length_ratio=2.0)
    assert not best_against([one], torch.ones(1, 4), "max_min")
    same = sampled(response(5), response(5))
    assert not best_against([same], torch.tensor([[0.0, 1.0]]), "max_min")


def test_a_dialogue_holds_the_ids_that_were_sampled():
    one = Sampled([1, 2, 3, 4], [[7, 8, 9]], ["x"], [3], [True])
    assert dialogue(one, 0, 100)[:2] == ([1, 2, 3, 4, 7, 8, 9], 4)
    assert dialogue(one, 0, 5)[:2] == ([3, 4, 7, 8, 9], 2)


@pytest.mark.slow
def test_one_round_on_given_pairs_is_offline_dpo(first, needs):
    """The same pairs as texts with hard verdicts, encoded as offline DPO does, from the same policy."""
    how = settings().dpo.model_copy(update={"eval_pairs": 0, "eval_prompts": 0, "eval_every": 0})
    rows = lines(first / "pairs.jsonl")
    model, tokenizer = load_policy(needs["sft"])
    prompts = list(different_prompts(load_split(needs["data"], "train")))
    left, _ = schedule.hold_out(prompts, 6, 3)
    seed = schedule.derive_seed(3, "round", 1)
    samples = sample(model, tokenizer, left, settings().sampling, 4, seed=seed)
    places = {json.dumps(messages): place for place, messages in enumerate(left)}
    sides: tuple[list, list] = ([], [])
    for row in rows:
        own = samples[places[json.dumps(row["messages"])]]
        for side, name in zip(sides, ("chosen", "rejected"), strict=True):
            which = own.texts.index(row[name])
            made_of_text = tokenize(tokenizer, row["messages"], row[name], how.max_length, how.max_prompt)
            if own.ended[which] and own.ids[which] == made_of_text.ids[made_of_text.start :]:
                side.append(made_of_text)  # it is the very same, however it was encoded
            else:
                side.append(dialogue(own, which, how.max_length))
    torch.manual_seed(0)
    learn = schedule.derive_seed(3, "learn", 1)
    models = policy_with_reference(model, how, seed=learn)
    trainer = DPOTrainer(models, tokenizer, Pairs.of(*sides, torch.ones(len(rows))), how, seed=learn, keep=first.parent)
    curve = trainer.run().curve
    assert [row["loss"] for row in curve] == [row["loss"] for row in lines(first / "steps.jsonl")]
    assert curve[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    online_policy, _ = load_policy(first)
    for (name, own), other in zip(models.model.named_parameters(), online_policy.parameters(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


def test_the_policy_moves_to_what_is_rewarded(first):
    start, end = lines(first / "curve.jsonl")
    assert start["kl"] == 0 and end["kl"] > 0.05 and end["reward"] > start["reward"]
    assert all(row["value_chosen"] > row["value_rejected"] for row in lines(first / "pairs.jsonl"))


@pytest.mark.slow
def test_a_later_round_prices_the_way_from_sft_or_from_the_round_before(tmp_path, needs, first):
    out = {}
    for reference in ("sft", "previous"):
        out[reference] = made(tmp_path / reference, needs, first, 2, online_dpo=settings(reference=reference))
        curve = lines(out[reference] / "curve.jsonl")
        assert curve[:2] == lines(first / "curve.jsonl") and curve[2]["step"] == 2
    assert (out["sft"] / "pairs.jsonl").read_text() == (out["previous"] / "pairs.jsonl").read_text()
    begun = {name: lines(folder / "steps.jsonl")[0] for name, folder in out.items()}
    assert begun["previous"]["loss"] == pytest.approx(0.6931, abs=1e-4)  # nothing has moved yet
    assert abs(begun["sft"]["loss"] - 0.6931) > 0.01  # the policy is on its way already
    assert json.loads((out["sft"] / "totals.json").read_text())["steps"] == 16


def test_at_the_optimum_of_the_priced_reward_all_responses_tie():
    """The closed form (2305.18290, equation 4): log π - log π_0 = r / β - log Z, a constant of the prompt."""
    values = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]], dtype=torch.float64)
    coef = 0.5
    apart = values / coef - torch.logsumexp(values / coef, 1, keepdim=True)
    found = priced(values, apart, coef)
    torch.testing.assert_close(found, found[:, :1].expand_as(found))
    assert priced(values, apart, 0.0).equal(values)


@pytest.mark.slow
def test_a_round_prices_the_way_that_its_samples_went(tmp_path, needs, first):
    """The pairs of a second round, recomputed by hand from its samples; the first has gone nowhere yet."""
    how = settings(kl_coef=0.3)
    one = made(tmp_path / "one", needs, online_dpo=how)
    assert (one / "pairs.jsonl").read_text() == (first / "pairs.jsonl").read_text()
    two = made(tmp_path / "two", needs, one, 2, online_dpo=how)
    free = made(tmp_path / "free", needs, one, 2, online_dpo=settings())
    _, begun, row = lines(two / "curve.jsonl")
    assert begun["sampled/kl"] == 0 and row["sampled/kl"] > 0
    left, _ = schedule.hold_out(list(different_prompts(load_split(needs["data"], "train"))), 6, 3)
    model, tokenizer = load_policy(one)
    origin, _ = load_policy(needs["sft"])
    samples = sample(model, tokenizer, left, how.sampling, 4, seed=schedule.derive_seed(3, "round", 2))
    wanted = []
    for own in samples:
        apart = [log_probability(model, own.prompt, ids) - log_probability(origin, own.prompt, ids) for ids in own.ids]
        rewards = [sum(f([], [text])[0] for f in (online.letters, online.spaces)) for text in own.texts]
        worth = [r - 0.3 * begun["sampled/deviation"] * d for r, d in zip(rewards, apart, strict=True)]
        best, worst = max(range(4), key=worth.__getitem__), min(range(4), key=worth.__getitem__)
        wanted.append((own.texts[best], own.texts[worst]))
    found = [(row["chosen"], row["rejected"]) for row in lines(two / "pairs.jsonl")]
    assert found == wanted
    assert found != [(row["chosen"], row["rejected"]) for row in lines(free / "pairs.jsonl")]


def log_probability(model, prompt: list[int], response: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum().item()


@pytest.mark.slow
def test_scalarizers_choose_the_pairs(tmp_path, needs, first):
    lowest = made(tmp_path, needs, scalarizer=MAX_MIN)
    rows, usual = lines(lowest / "pairs.jsonl"), lines(first / "pairs.jsonl")
    assert [row["chosen"] for row in rows] != [row["chosen"] for row in usual]
    for row in rows:
        scores = [f([], [row["chosen"]])[0] for f in (online.letters, online.spaces)]
        assert row["value_chosen"] == pytest.approx(min(scores))


@pytest.mark.slow
def test_rounds_and_their_beginning_are_units():
    def units(*more: str) -> dict:
        return {unit.name: unit for unit in plan(config("experiment=smoke", *more)).units}

    online_ = units("arms.select=[online_dpo]", "online_dpo.rounds=3")
    assert [name for name in online_ if name.startswith("online_dpo")] == [
        "online_dpo/online_dpo/1", "online_dpo/online_dpo/2", "online_dpo/online_dpo",
    ]  # fmt: skip
    tenth = units("arms.select=[teacher_tenth]")
    assert [need.name for need in tenth["online_dpo/teacher_tenth"].of("teacher")] == ["teacher/teacher_tenth"]
    assert tenth["teacher/teacher_tenth"].reads.teacher.share == 0.1
    assert "weigh/teacher" not in units("arms.select=[teacher]")
