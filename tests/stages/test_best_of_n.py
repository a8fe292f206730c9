"""The stage on a tiny policy: whose answers it chooses, what it leaves, and going on after a kill."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import online
import pytest

from morlaif.data.records import different_prompts, load_split
from morlaif.errors import Damaged
from morlaif.evaluation.policies import ANSWERS, kept_answers, respond
from morlaif.models.load import load_policy
from morlaif.online.best_of import kl_bound
from morlaif.online.settings import BestOfNSettings
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.stages.best_of_n import STAGE
from morlaif.stages.work.best_of_n import build
from morlaif.units.unit import seed_of

MAX_MIN = ScalarizerSettings(name="max_min", function="morlaif.scalarize.functions.max_min", params={})


@pytest.fixture(scope="module")
def needs(tmp_path_factory) -> dict[str, Path]:
    return online.folders(tmp_path_factory.mktemp("store"))


def made(root: Path, needs: dict[str, Path], n: int, **more) -> Path:
    reads = {"best_of_n": BestOfNSettings(n=n), "answers": online.ANSWERING, "truth": True}
    job = online.job(STAGE, "best_of_n/arm", root, needs, **reads, scalarizers={"max_min": MAX_MIN}, **more)
    build(job)
    return job.out


def prompts(needs: dict[str, Path]) -> list:
    return list(different_prompts(load_split(needs["data"], "eval"))[: online.ANSWERING.prompts])


@pytest.mark.slow
def test_the_best_of_one_is_what_the_evaluation_has_the_sft_policy_answer(tmp_path, needs):
    answers = kept_answers(made(tmp_path, needs, 1) / ANSWERS, prompts(needs))
    load = partial(load_policy, needs["sft"])
    assert answers == respond(load, prompts(needs), online.ANSWERING, seed=seed_of(0, "evaluate"))


@pytest.mark.slow
def test_the_best_is_the_one_with_the_highest_objective(tmp_path, needs):
    out = made(tmp_path, needs, 5)
    rows = [json.loads(line) for line in (out / "candidates.jsonl").read_text().splitlines()]
    answers = kept_answers(out / ANSWERS, prompts(needs))
    assert len(rows) == len(answers.texts) == 6
    for row, text in zip(rows, answers.texts, strict=True):
        values = [online.letters([], [t])[0] + online.spaces([], [t])[0] for t in row["texts"]]
        assert len(values) == 5 and row["values"] == values and row["texts"][int(np.argmax(values))] == text
        assert row["scores"]["letters"] == online.letters([], row["texts"])
    one, best = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert (one["kl"], best["kl"], best["kl_bound"]) == (0.0, kl_bound(5), True)
    found = json.loads((out / "by_n.json").read_text())
    last = found["objectives"]["own"][-1]
    assert last["objective"]["value"] == pytest.approx(best["reward"] - one["reward"])
    assert set(found["objectives"]) == {"own", "max_min"} and "utility" in last


@pytest.mark.slow
def test_a_killed_unit_goes_on_with_the_same_samples(tmp_path, needs):
    whole = made(tmp_path / "whole", needs, 4)

    def kill(step: int, total: int | None, metrics: dict) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "killed", needs, 4, on_progress=kill)
    assert len(list((tmp_path / "killed" / "keep").glob("draw-*.jsonl"))) == 2
    again = made(tmp_path / "killed", needs, 4)
    for file in (ANSWERS, "candidates.jsonl", "curve.jsonl", "by_n.json"):
        assert (again / file).read_text() == (whole / file).read_text()


def test_answers_to_other_prompts_are_an_error(tmp_path, needs):
    out = made(tmp_path, needs, 1)
    file = out / ANSWERS
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(Damaged, match="no answer to 1 of 6 prompts"):
        kept_answers(file, prompts(needs))
