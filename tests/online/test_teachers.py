"""Who writes completions: in the toy world, a model, a server; each is asked once for each prompt, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import online
import pytest
from composed import config

from morlaif.data.records import different_prompts, load_split
from morlaif.errors import UserError
from morlaif.feedback.ledger import Ledger
from morlaif.models.load import load_policy
from morlaif.online.settings import TeacherSettings
from morlaif.online.teachers import completions
from morlaif.planning.plan import plan
from morlaif.presets import preset
from morlaif.stages.teacher import STAGE
from morlaif.stages.work.teacher import build
from morlaif.toy.grammar import grammatical, read_prompt
from morlaif.toy.world import human_utility, make_world


def settings(name: str = "toy", **changes: Any) -> TeacherSettings:
    values = preset("teacher", name, sampling={"max_new_tokens": 6, "stop": []}, eval_prompts=3, **changes)
    return TeacherSettings(**values)


def prompts(count: int = 20) -> list:
    return list(different_prompts(make_world(0, sft=0, train=count, eval=0)["train"]))


def written(own: TeacherSettings, rows: list, ledger: Path, load: Any = None) -> list:
    return completions(own, rows, seed=0, ledger=ledger, identity="a model", load=load)


def test_a_prompt_of_the_toy_world_is_read_back():
    for messages in prompts(60):
        found = read_prompt(messages)
        assert found is not None and found.messages == messages
    assert read_prompt([{"role": "user", "content": "What is the capital of France?"}]) is None


@pytest.mark.slow
def test_a_strong_teacher_is_worth_more_than_a_weak_one_and_costs_more(tmp_path):
    rows = prompts()
    strong, weak = (written(settings(name), rows, tmp_path / "ledger.sqlite") for name in ("toy", "toy_weak"))
    worth = [np.mean([human_utility(one.messages, one.text) for one in some]) for some in (strong, weak)]
    assert worth[0] > worth[1] + 1 and all(grammatical(one.text) == 1 for one in strong)
    usd = [sum(one.usd for one in some) for some in (strong, weak)]
    assert usd[0] > 10 * usd[1] > 0
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent() == pytest.approx(sum(usd)) and len(ledger) == 2 * len(rows)


def test_money_that_is_spent_ends_it_and_buys_nothing_twice(tmp_path):
    rows, path = prompts(), tmp_path / "ledger.sqlite"
    whole = written(settings(), rows, path)
    half = sum(one.usd for one in whole) / 2
    some = written(settings(usd=half), rows, path)
    assert some == whole[: len(some)] and 0 < len(some) < len(whole) and sum(one.usd for one in some) <= half
    with Ledger(path) as ledger:
        assert len(ledger) == len(rows)


@pytest.mark.slow
def test_a_model_is_asked_once_whatever_is_known_already(tmp_path):
    root = online.folders(tmp_path / "store")
    rows = list(different_prompts(load_split(root["data"], "train")))[:4]
    own = settings("lora", teacher={"path": "here"})
    asked = []

    def load() -> Any:
        asked.append(1)
        return load_policy(root["sft"])

    whole = written(own, rows, tmp_path / "one.sqlite", load)
    written(own, rows[2:3], tmp_path / "two.sqlite", load)
    assert written(own, rows, tmp_path / "two.sqlite", load) == whole
    assert written(own, rows, tmp_path / "one.sqlite", load) == whole and len(asked) == 3
    assert all(one.output_tokens > 0 and one.usd == 0 for one in whole)


def test_only_prompts_of_the_toy_world_have_a_toy_teacher(tmp_path):
    with pytest.raises(UserError, match=r"teacher\.teacher\.kind=toy"):
        written(settings(), [[{"role": "user", "content": "Hello"}]], tmp_path / "ledger.sqlite")


@pytest.mark.slow
def test_the_policy_imitates_it(tmp_path):
    needs = online.folders(tmp_path / "store")
    few = {"max_steps": 20, "batch_size": 4, "learning_rate": 0.01, "warmup": 0}
    job = online.job(STAGE, "teacher/teacher", tmp_path, needs, teacher=settings(training=few))
    summary = build(job)
    start, end = [json.loads(line) for line in (job.out / "curve.jsonl").read_text().splitlines()]
    assert end["reward"] > start["reward"] + 0.05 and start["kl"] == 0 and end["kl"] > 0
    assert summary["completions"] == 15 and summary["completion_usd"] > 0 and summary["steps"] == 20
    with Ledger(job.ledger) as ledger:
        assert ledger.spent() == pytest.approx(summary["completion_usd"])


@pytest.mark.slow
def test_a_teacher_without_a_path_is_reported_before_anything_is_built():
    with pytest.raises(UserError, match=r"teacher\.teacher\.path: give the teacher's folder"):
        plan(config("experiment=smoke", "arms.select=[teacher]", "teacher=lora"))
