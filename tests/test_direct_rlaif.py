"""Rewards other than preference models, through the command line: a judge, a server within a budget, functions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli
import pytest

sys.path.insert(0, str(Path(__file__).parent / "feedback"))

from chat_server import ChatServer

from morlaif.feedback.ledger import Ledger

pytestmark = pytest.mark.slow

TINY = [
    "experiment=smoke", "principles.count=2", "sft.max_steps=30", "weights.prompts=16", "ppo.eval_prompts=0",
    "ppo.eval_every=0", "ppo.samples=0", "ppo.keep=last", "ppo.checkpoint_every=5", "ppo.shaping.constant_score=allow",
    "hardware.workers=1",
]  # fmt: skip
TIMEOUT = 150


def environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def morlaif(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cli.morlaif([*TINY, *arguments], folder, environment(folder), TIMEOUT)


def units(folder: Path) -> dict[str, str]:
    """The states of the units of the last run."""
    last = max((folder / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    return {unit["name"]: unit["state"] for unit in json.loads(last.read_text())["units"]}


def ratings_by(server: ChatServer, *more: str) -> list[str]:
    return [
        "reward=judge_server", f"reward.engine.base_url={server.base_url}", "reward.engine.price.input=1",
        "reward.engine.price.output=10", "reward.engine.backoff=0.01", "reward.engine.concurrency=8",
        "arms.select=[morlaif]", "stages=[ppo]", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With data and an SFT policy, which all runs here share."""
    made = tmp_path_factory.mktemp("direct")
    done = morlaif(made, "stages=[sft]")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_the_rules_judge_needs_no_preference_models(folder):
    done = morlaif(folder, "reward=judge")
    assert done.returncode == 0, done.stdout + done.stderr
    states = units(folder)
    assert set(states) == {
        "data", "sft", "respond", "weigh/morlaif", "weigh/rlaif", "ppo/morlaif", "ppo/rlaif", "evaluate", "report",
    }  # fmt: skip
    run = max((folder / "runs").glob("*/results.json"), key=lambda path: path.stat().st_mtime_ns).parent
    results = json.loads((run / "results.json").read_text())
    assert results["pm_accuracy"] == {} and 0 <= results["win_rate"]["morlaif_vs_sft"]["value"] <= 1
    page = (run / "report.html").read_text()
    assert "a judge’s ratings under 2 principles" in page and "no pairs were labelled" in page
    assert 'href="#models"' not in page
    (weights,) = (p for p in (folder / "store/weigh").glob("*/weights.json") if "single" not in p.read_text())
    assert json.loads(weights.read_text())["names"] == ["helpfulness", "ethicality"]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    step = next(row["metrics"] for row in metrics if row["unit"] == "ppo/morlaif")
    assert {"score/helpfulness", "deviation/helpfulness", "clipped/helpfulness"} <= set(step)
    assert step["reward/ratings"] == 2 * 16 and step["reward/invalid"] == 0


def test_a_budget_stops_ppo_and_a_larger_one_resumes_without_paying_twice(folder):
    with ChatServer() as server:
        arguments = ratings_by(server, "ppo.steps=3", "reward.engine.model=frugal")
        planned = morlaif(folder, *arguments, "dry_run=true")
        assert "ppo/morlaif" in planned.stdout and f"{3 * 16 * 2}" in planned.stdout, planned.stdout
        assert server.received == 0

        stopped = morlaif(folder, *arguments, "reward.engine.budget_usd=0.0115")
        assert stopped.returncode == 2, stopped.stdout + stopped.stderr
        assert "reward.engine.budget_usd=0.0115 is reached" in " ".join(stopped.stderr.split())
        assert "Traceback" not in stopped.stdout + stopped.stderr
        with Ledger(folder / "store/ledger.sqlite") as ledger:
            assert ledger.spent() <= 0.0115
        (kept,) = (folder / "store/ppo").glob(".*/keep/step-*.pt")  # of the last whole step, though not the fifth
        before = server.received

        done = morlaif(folder, *arguments, "reward.engine.budget_usd=10")
        assert done.returncode == 0, done.stdout + done.stderr
        assert units(folder)["weigh/morlaif"] == "cached" and units(folder)["ppo/morlaif"] == "built"
        assert server.received > before and max(server.answered.values()) == 1
        assert not kept.exists()
        rows = [json.loads(x) for p in (folder / "store/ppo").glob("*/curve.jsonl") for x in p.read_text().splitlines()]
        weights = [json.loads(p.read_text()) for p in (folder / "store/weigh").glob("*/weights.json")]
        told = [row.get("reward/usd", 0) for row in rows] + [w.get("ratings", {}).get("usd", 0) for w in weights]
        with Ledger(folder / "store/ledger.sqlite") as ledger:
            assert sum(x > 0 for x in told) >= 4 and sum(told) == pytest.approx(ledger.spent())


def test_kill_9_while_the_policy_trains_pays_for_nothing_twice(folder):
    with ChatServer(delay=0.05) as server:
        arguments = ratings_by(server, "ppo.steps=2", "reward.engine.model=hardy", "ppo.checkpoint_every=1")
        process = cli.Run([*TINY, *arguments], folder, environment(folder))
        while server.received < 80 and process.poll() is None:  # the first 32 are those of `weigh`
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = morlaif(folder, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert max(server.answered.values()) == 1 and server.received <= 2 * 16 + 2 * 16 * 2 + 1


FUNCTIONS = """
def two(prompts, responses):
    return [[len(text), text.count("e")] for text in responses]
"""


def test_functions_and_mixtures(folder):
    (folder / "mine.py").write_text(FUNCTIONS)
    mine = ["reward=function", "reward.names=[long,eager]", "arms.select=[morlaif]", "stages=[ppo]"]
    plan = morlaif(folder, *mine, "reward.function=mine.two", "dry_run=true")
    assert plan.returncode == 0 and "pm/" not in plan.stdout

    judge = ["+reward@reward.parts.judge=judge", "+reward.weights.judge=0.5"]
    one = "reward.parts.judge.principles=[helpfulness]"
    own = ["reward.parts.length.function=mine.two", "reward.parts.length.names=[long,eager]"]
    none = "~reward.parts.length.params.words"
    arguments = [
        "reward=mixture",
        *judge,
        one,
        *own,
        none,
        "principles.count=1",
        "arms.select=[morlaif]",
        "stages=[ppo]",
    ]
    plan = morlaif(folder, *arguments, "dry_run=true")
    assert plan.stdout.count("pm/") == 1
    done = morlaif(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = [json.loads(p.read_text()) for p in (folder / "store/weigh").glob("*/weights.json")]
    (mixed,) = (w for w in kept if "judge_helpfulness" in w["names"])
    assert mixed["names"] == ["helpfulness", "long", "eager", "judge_helpfulness"]
    assert mixed["weight"] == [1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["reward=judge", "feedback=human"], "feedback.source=human: such a source rates no response"),
        (["reward=judge", "reward.overall=wise"], "reward.overall: no principle 'wise' in the constitution."),
        (["reward=judge", "weights=given", "+weights.values.detial=1"], "weights.values: no principle 'detial'"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_2(arguments, line, tmp_path):
    done = morlaif(tmp_path, *arguments)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "store").exists()
