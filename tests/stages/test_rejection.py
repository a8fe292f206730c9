"""Rounds of rejection sampling on a tiny policy: what is imitated, what it comes to, a kill, more rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import online
import pytest
import torch
from composed import config
from transformers import AutoModelForCausalLM, AutoTokenizer

from morlaif.data.chat import prompt_ids
from morlaif.data.records import different_prompts, load_split
from morlaif.models.load import load_policy
from morlaif.online.looks import response_logprobs
from morlaif.online.samples import sample
from morlaif.online.settings import RejectionSettings
from morlaif.planning.plan import plan
from morlaif.presets import preset
from morlaif.stages.rejection import STAGE
from morlaif.stages.work.rejection import build

SMALL = {
    "n": 6, "eval_prompts": 6, "sampling": {"max_new_tokens": 8, "batch_size": 16},
    "training": {"max_steps": 12, "batch_size": 4, "learning_rate": 0.01, "warmup": 0},
}  # fmt: skip


def settings(**changes: Any) -> RejectionSettings:
    values = preset("rejection", "toy", **SMALL)
    values["sampling"]["stop"] = []
    return RejectionSettings(**values | changes)


@pytest.fixture(scope="module")
def needs(tmp_path_factory) -> dict[str, Path]:
    return online.folders(tmp_path_factory.mktemp("store"))


def made(root: Path, needs: dict[str, Path], before: Path | None = None, number: int = 1, **more: Any) -> Path:
    given = needs | ({} if before is None else {f"rejection/arm/{number - 1}": before})
    reads = {"rejection": more.pop("rejection", settings()), "round": number}
    job = online.job(STAGE, f"rejection/arm/{number}", root, given, **reads, **more)
    build(job)
    return job.out


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def first(tmp_path_factory, needs) -> Path:
    return made(tmp_path_factory.mktemp("first"), needs)


@pytest.mark.slow
def test_the_best_sample_of_each_prompt_is_imitated(first, needs):
    samples = [json.loads(line) for line in (first.parent / "keep" / "samples.jsonl").read_text().splitlines()]
    chosen = lines(first / "chosen.jsonl")
    prompts = different_prompts(load_split(needs["data"], "train"))
    assert len(samples) == len(chosen) == len(prompts) - 6  # those that are only looked at
    for (prompt, ids, texts, _, _), row in zip(samples, chosen, strict=True):
        values = [online.letters([], [text])[0] + online.spaces([], [text])[0] for text in texts]
        assert len(texts) == 6 and row["value"] == max(values) and row["text"] == texts[values.index(max(values))]
        assert row["prompt"] == prompt and row["ids"] == ids[values.index(max(values))]


def test_the_policy_moves_to_what_is_rewarded(first):
    start, end = lines(first / "curve.jsonl")
    assert (start["step"], start["kl"], end["step"]) == (0, 0.0, 1)
    assert end["reward"] > start["reward"] and end["kl"] > 0.05
    assert end["sampled/best"] > end["sampled/reward"]
    assert AutoModelForCausalLM.from_pretrained(first / "model") and AutoTokenizer.from_pretrained(first / "model")


@pytest.mark.slow
def test_the_next_round_begins_from_the_one_before(tmp_path, needs, first):
    second = made(tmp_path, needs, first, 2)
    curve = lines(second / "curve.jsonl")
    assert curve[:2] == lines(first / "curve.jsonl") and [row["step"] for row in curve] == [0, 1, 2]
    assert json.loads((second / "totals.json").read_text()) == {"steps": 24, "episodes": 2 * 6 * 12}
    assert curve[2]["sampled/reward"] > curve[1]["sampled/reward"]  # it has sampled the better policy


@pytest.mark.slow
def test_sft_anew_learns_from_the_best_of_all_rounds(tmp_path, needs, first):
    anew = settings(start="sft")
    second = made(tmp_path, needs, first, 2, rejection=anew)
    old, new = ({row["prompt_id"]: row["value"] for row in lines(f / "chosen.jsonl")} for f in (first, second))
    assert old.keys() == new.keys() and all(new[name] >= old[name] for name in old) and new != old


@pytest.mark.slow
def test_a_killed_round_comes_to_the_same(tmp_path, needs, first):
    def kill(step: int, total: int | None, metrics: dict) -> None:
        if step == 50:  # half way: all is sampled
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, needs, on_progress=kill)
    kept = tmp_path / "keep" / "samples.jsonl"
    kept.write_bytes(kept.read_bytes()[:-40])  # and the last line is torn
    again = made(tmp_path, needs)
    for file in ("chosen.jsonl", "curve.jsonl"):
        assert (again / file).read_text() == (first / file).read_text()


@pytest.mark.slow
def test_samples_do_not_depend_on_batches(needs):
    model, tokenizer = load_policy(needs["sft"])
    prompts = list(different_prompts(load_split(needs["data"], "train")))[:4]
    how = settings().sampling
    whole = sample(model, tokenizer, prompts, how, 3, seed=1)
    assert whole == sample(model, tokenizer, prompts, how.model_copy(update={"batch_size": 2}), 3, seed=1)
    assert whole[:2] == sample(model, tokenizer, prompts[:2], how, 3, seed=1)


def test_log_probabilities_are_the_models_own(needs):
    model, tokenizer = load_policy(needs["sft"])
    prompts = [prompt_ids(tokenizer, m) for m in list(different_prompts(load_split(needs["data"], "train")))[:3]]
    responses = [[5, 6, 7], [8], [9, 10]]
    found = response_logprobs(model, tokenizer, prompts, responses, temperature=0.7, rows=2)
    for prompt, response, total in zip(prompts, responses, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.7
        own = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum()
        assert total == pytest.approx(own.item(), abs=1e-4)


def test_rounds_are_units_and_more_of_them_go_on_from_those_that_are_there():
    def units(*more: str) -> dict:
        found = plan(config("experiment=smoke", "arms.select=[rejection]", *more)).units
        return {unit.name: unit for unit in found if unit.stage.name == "rejection"}

    two, three = units(), units("rejection.rounds=3")
    assert list(two) == ["rejection/rejection/1", "rejection/rejection"]
    assert list(three) == ["rejection/rejection/1", "rejection/rejection/2", "rejection/rejection"]
    assert three["rejection/rejection/1"].digest == two["rejection/rejection/1"].digest
    assert three["rejection/rejection/2"].digest == two["rejection/rejection"].digest
    assert [need.name for need in three["rejection/rejection"].of("rejection")] == ["rejection/rejection/2"]
