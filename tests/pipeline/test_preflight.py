"""All that would stop a run is told at once, before anything is built, and only of what the run is still to build."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from composed import config

from morlaif.config import Config
from morlaif.errors import MachineError, UserError
from morlaif.models import fingerprint
from morlaif.pipeline import preflight
from morlaif.pipeline.preflight import Preflight
from morlaif.pipeline.store import Store

NOBODY = "base_url=http://127.0.0.1:9/v1"  # the port of `discard`, where nothing listens


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, no key and no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def made(*overrides: str) -> Config:
    return config(*overrides)


def problems(*overrides: str) -> list[str]:
    return Preflight().problems(made(*overrides))


def test_a_run_of_the_toy_world_has_none():
    assert problems() == []


def test_everything_is_told_at_once():
    lines = problems(
        "feedback=openai", "eval=hf", "data=jsonl", "data.path=gone.jsonl", "model=gpt2", "model.path=./gone",
        "pm=lora", "pm.base=./gone_too", "+eval.policies.other=./gone_as_well", "eval.rewardbench=gone.jsonl",
        "weights.zero=[detial]", "ppo.rollout=vllm",
    )  # fmt: skip
    for key in (
        "feedback.api_key_env", "eval.judge.engine.path", "data.path", "model.path", "pm.base", "eval.policies.other",
        "eval.rewardbench", "weights.zero", "ppo.rollout",
    ):  # fmt: skip
        assert sum(line.startswith((f"{key}=", f"{key}:")) for line in lines) == 1, (key, lines)
    assert len(lines) == 9 and all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["feedback=openai"], "feedback.api_key_env: the environment variable OPENAI_API_KEY is not set"),
        (["feedback=server", f"feedback.{NOBODY}"], "feedback.base_url=http://127.0.0.1:9/v1: nothing listens there"),
        (
            ["reward=judge_server", "reward.engine.model=x", f"reward.engine.{NOBODY}"],
            "reward.engine.base_url=http://127.0.0.1:9/v1: nothing listens there",
        ),
        (["feedback=hf"], "feedback.path: give the judge's folder"),
        (["feedback=hf", "feedback.path=./gone"], "feedback.path='./gone': no such folder"),
        (["feedback=jsonl"], "feedback.path: give the file of verdicts"),
        (["feedback=jsonl", "feedback.path=gone.jsonl"], "feedback.path: 'gone.jsonl': there is no such file"),
        (["eval=hf"], "eval.judge.engine.path: give the judge's folder"),
        (["model=gpt2"], "model.path='gpt2': no such folder here, the hub's cache does not have it"),
        (["pm=pretrained"], "pm.paths: no reward model for 'helpfulness'"),
        (
            ["pm=pretrained", "pm.paths={helpfulness: ./gone}", "principles.count=1", "arms=[multi]"],
            "pm.paths.helpfulness='./gone': no such folder",
        ),
        (["reward=function", "reward.function=nowhere.function"], "reward.function 'nowhere.function': no module"),
        (["scalarizer.function=nowhere.function"], "scalarizer.function 'nowhere.function': no module"),
        (["paths.store=file/in/the/way"], "file is a file; name a folder"),
        (["paths.runs=file"], "a file is in the way; name a folder"),
    ],
)
def test_each_room_is_asked(overrides, line, tmp_path):
    (tmp_path / "file").write_text("")
    (said,) = problems(*overrides)
    assert line in said


def test_stages_that_are_not_asked_for_need_nothing():
    later = ["feedback=openai", "eval=hf", "ppo.rollout=vllm", "pm=lora", "pm.base=gpt2", "+eval.policies.x=./gone"]
    assert problems(*later, "stages=[data]") == []
    assert [line.split(":")[0] for line in problems(*later, "stages=[feedback]")] == ["feedback.api_key_env"]


def test_what_the_store_has_needs_neither_server_nor_key(monkeypatch):
    monkeypatch.setattr(Store, "has", lambda self, unit: unit.stage != "report")
    assert problems("feedback=openai", "ppo.rollout=vllm", "pm=lora", "pm.base=gpt2") == []


def test_a_server_that_is_away_is_no_mistake_of_the_user():
    away = ["feedback=server", f"feedback.{NOBODY}", "stages=[feedback]"]
    with pytest.raises(MachineError, match="nothing listens there"):
        Preflight().check([made(*away)])
    with pytest.raises(UserError, match="nothing listens there"):
        Preflight().check([made(*away), made("feedback=openai")])


def test_a_server_that_is_away_is_no_problem_where_the_ledger_may_know_its_answers(tmp_path):
    (tmp_path / "store").mkdir()
    Store(tmp_path / "store").ledger.touch()
    assert problems("feedback=server", f"feedback.{NOBODY}", "stages=[feedback]") == []


def test_rows_and_dialogues_are_looked_at(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"chosen": "x"}) + "\n")
    (said,) = problems("data=jsonl", "data.path=rows.jsonl")
    assert said.startswith("data.path: rows.jsonl, line 1:")


def test_the_hub_is_asked_for_what_is_not_in_its_cache(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    commits = {"own/gated": fingerprint.Commit(None, "gated: ask"), "own/there": fingerprint.Commit("a" * 40)}
    for module in (preflight, fingerprint):
        monkeypatch.setattr(
            module, "hub_commit", lambda id, *_: commits.get(id, fingerprint.Commit(None)), raising=False
        )
    model = ["model=gpt2", "stages=[sft]"]
    assert problems(*model, "model.path=own/gated") == ["model.path='own/gated': gated: ask"]
    assert problems(*model, "model.path=own/there") == []
    assert "the hub does not answer" in "".join(problems(*model, "model.path=own/unknown"))


def test_a_sweep_is_looked_at_whole_and_says_nothing_twice():
    jobs = [made("feedback=openai", f"seed={seed}") for seed in (1, 2)] + [made("paths.runs=/dev/null")]
    with pytest.raises(UserError) as told:
        Preflight().check(jobs)
    assert [line.split(":")[0].split("=")[0] for line in str(told.value).splitlines()] == [
        "feedback.api_key_env", "paths.runs",
    ]  # fmt: skip


def test_a_dry_run_shows_its_plan_and_then_what_would_stop_it_without_torch(tmp_path):
    code = """
import atexit, os, sys
sys.argv = ["morlaif", "dry_run=true", "feedback=openai", "model=gpt2"]
def check():
    heavy = [name for name in ("torch", "transformers", "datasets", "openai", "numpy") if name in sys.modules]
    print("imported", heavy, file=sys.stderr)
atexit.register(check)
from morlaif.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[1].split("=")[0].strip() for line in lines[:-1]] == ["model.path", "feedback.api_key_env"]
    assert lines[-1].split() == ["imported", "['numpy']"]  # for the estimate of what labels cost
    assert "evaluate" in done.stdout and not (tmp_path / "store").exists() and not (tmp_path / "runs").exists()


def test_a_run_stops_before_its_first_unit(tmp_path):
    command = [sys.executable, "-m", "morlaif", "feedback=openai", "weights.zero=[detial]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2, done.stderr
    assert not list(Path(tmp_path).glob("store/*/*"))
