"""The whole pipeline on a tiny world, as a user runs it: resume, sharing, sweeps, kills."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import cli
import pytest

pytestmark = pytest.mark.slow

SMOKE = ["experiment=smoke", "sft.max_steps=10", "pm.epochs=1", "weights.prompts=16"]
SHORT = "report.sections=[results]"  # figures take most of a report's time
TIMEOUT = 240


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "COLUMNS": "80", "PYTHONPATH": paths}


def morlaif(folder: Path, *arguments: str, workers: int = 1) -> subprocess.CompletedProcess[str]:
    return cli.morlaif([*SMOKE, f"hardware.workers={workers}", *arguments], folder, environment(folder), TIMEOUT)


def run_folder(folder: Path, done: subprocess.CompletedProcess[str]) -> Path:
    (name,) = re.findall(r"run: +(\S+)", done.stdout)
    return folder / name


def units(run: Path) -> dict[str, str]:
    return {unit["name"]: unit["state"] for unit in json.loads((run / "run.json").read_text())["units"]}


def built(run: Path) -> set[str]:
    return {name for name, state in units(run).items() if state == "built"}


def finished(folder: Path) -> set[str]:
    return {
        str(manifest.parent.relative_to(folder / "store")) for manifest in (folder / "store").glob("*/*/manifest.json")
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished smoke run by two workers: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    done = morlaif(folder, workers=2)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_a_run_leaves_its_record_its_numbers_and_its_page(first):
    folder, done = first
    run = run_folder(folder, done)
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "succeeded" and record["seed"] == 0 and record["versions"]["torch"]
    assert set(units(run).values()) == {"built"}
    assert {"name", "stage", "digest", "state", "seconds"} <= set(record["units"][0])
    results = json.loads((run / "results.json").read_text())
    assert set(results["pm_accuracy"]) >= {"helpfulness", "ethicality", "factuality"}
    for rate in (
        *results["pm_accuracy"].values(),
        *(results["win_rate"][f"morlaif_vs_{other}"] for other in ("sft", "rlaif")),
    ):
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1 and rate["n"] > 0
    assert all(isinstance(results["reward"][name], float) for name in ("first", "last"))
    assert isinstance(results["kl"], float) and results["seconds"] > 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} >= {"sft", "pm", "ppo"}
    page = (run / "report.html").read_text()
    assert "ppo/morlaif" in page and "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert (run / "config.yaml").is_file() and list((run / "figures").glob("*.png"))


def test_what_is_printed_fits_80_columns(first):
    _, done = first
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith(("run:", "report:"))) <= 80
    assert done.stderr == ""


def test_the_same_command_builds_nothing(first):
    folder, _ = first
    again = morlaif(folder)
    assert again.returncode == 0 and built(run_folder(folder, again)) == set()
    assert "results.json" in os.listdir(run_folder(folder, again))


@pytest.mark.timeout(420)
def test_another_scalarizer_or_fewer_principles_rebuild_only_what_reads_them(first):
    """Fewer principles label and train nothing new."""
    folder, _ = first
    for override, rebuilt in (("scalarizer=max_min", set()), ("principles.count=2", {"weigh/morlaif"})):
        plan = morlaif(folder, override, "dry_run=true")
        to_do = {line.split()[1] for line in plan.stdout.splitlines() if " to do " in line}
        assert to_do == {"ppo/morlaif", "evaluate", "report"} | rebuilt
    done = morlaif(folder, "scalarizer=max_min", "principles.count=2", SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert built(run_folder(folder, done)) == {"weigh/morlaif", "ppo/morlaif", "evaluate", "report"}


def test_stages_build_what_they_need_and_stop_there(first, tmp_path):
    done = morlaif(tmp_path, "stages=[respond]")
    assert done.returncode == 0
    assert built(run_folder(tmp_path, done)) == {"data", "respond"}  # the data's own pairs need no policy


def numbers(run: Path) -> dict[str, object]:
    results = json.loads((run / "results.json").read_text())
    del results["seconds"]
    return results


@pytest.mark.timeout(420)
def test_kill_at_any_moment_then_the_same_command(first, tmp_path):
    """No finished unit is built again; what is left behind stops no later run, and changes no number.

    The numbers are those of a run that nobody killed, with another number of workers.
    """
    rng = random.Random(0)
    for seconds, workers in ((4, 2), (3, 1), (2, 1), (1, 1)):  # workers die with their run
        before = finished(tmp_path)
        run = cli.Run([*SMOKE, SHORT, f"hardware.workers={workers}"], tmp_path, environment(tmp_path), warm=True)
        time.sleep(rng.uniform(0, seconds))
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert before <= finished(tmp_path)
    before = finished(tmp_path)
    done = morlaif(tmp_path, SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    states = json.loads((run_folder(tmp_path, done) / "run.json").read_text())["units"]
    assert {f"{unit['stage']}/{unit['digest']}" for unit in states if unit["state"] == "cached"} >= before
    folder, unbroken = first
    assert numbers(run_folder(tmp_path, done)) == numbers(run_folder(folder, unbroken))


@pytest.mark.timeout(420)
def test_two_runs_at_once_build_each_unit_once(tmp_path):
    short = [*SMOKE, "hardware.workers=1", "stages=[ppo]", "arms.select=[morlaif]"]
    runs = [cli.Run([*short, *more], tmp_path) for more in ([], ["scalarizer=max_min"])]
    outputs = [run.communicate(TIMEOUT)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    runs = [tmp_path / re.findall(r"run: +(\S+)", output)[0] for output in outputs]
    shared = set(units(runs[0])) - {"ppo/morlaif"}
    assert not built(runs[0]) & built(runs[1]) & shared
    assert (built(runs[0]) | built(runs[1])) >= shared


PLUGIN = '''
def fragile(scores):
    """(B, K) -> (B,): a user's own scalarizer that is not ready yet."""
    from pathlib import Path
    if not Path(__file__).with_name("ready").exists():
        raise ZeroDivisionError("one over nothing")
    return scores.mean(-1)
'''


@pytest.mark.timeout(420)
def test_a_sweep_outlives_a_failing_job_and_resumes(first):
    folder, _ = first
    (folder / "plugin.py").write_text(PLUGIN)
    sweep = [
        "-m",
        "scalarizer.function=plugin.fragile,morlaif.scalarize.functions.linear",
        "arms.select=[morlaif]",
        SHORT,
    ]
    done = morlaif(folder, *sweep)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 succeeded" in done.stdout and "1 failed" in done.stdout and "Traceback" not in done.stdout + done.stderr
    records = [json.loads(path.read_text()) | {"folder": path.parent} for path in (folder / "runs").glob("*/run.json")]
    (failed,) = [record for record in records if record["status"] == "failed"]
    (unit,) = [unit for unit in failed["units"] if unit["state"] == "failed"]
    assert unit["name"] == "ppo/morlaif" and unit["error"] == "ZeroDivisionError: one over nothing"
    assert "plugin.py" in (failed["folder"] / unit["log"]).read_text()
    assert {unit["name"] for unit in failed["units"] if unit["state"] == "not_run"} == {"evaluate", "report"}
    (sweep_folder,) = [path.parent for path in (folder / "runs" / "sweeps").glob("sweep-*/sweep.json")]
    page = (sweep_folder / "comparison.html").read_text()  # of the job that succeeded
    assert "1 failed" in page and "ZeroDivisionError: one over nothing" in page
    assert f"comparison: {sweep_folder / 'comparison.html'}" in done.stdout
    assert len(json.loads((sweep_folder / "comparison.json").read_text())["runs"]) == 1

    (folder / "ready").touch()
    done = morlaif(folder, *sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 succeeded" in done.stdout
    assert built(failed["folder"]) == {"ppo/morlaif", "evaluate", "report"}
    compared = json.loads((sweep_folder / "comparison.json").read_text())
    assert [job["status"] for job in compared["jobs"]] == ["succeeded", "succeeded"] and len(compared["runs"]) == 2
    assert {path.stem for path in (sweep_folder / "figures").glob("*.png")} == set(compared["figures"])

    assert max(len(line) for line in done.stdout.partition("job  overrides")[2].splitlines()[:4]) <= 80


def test_any_finished_runs_can_be_compared(first):
    folder, done = first
    run = run_folder(folder, done).name
    compared = morlaif(folder, "stages=[compare]", f"compare.runs=[{run}]", "paths.store=elsewhere")
    assert compared.returncode == 0, compared.stdout + compared.stderr  # the runs' own store is found
    (page,) = re.findall(r"comparison: (\S+)", compared.stdout)
    found = json.loads(Path(page).with_name("comparison.json").read_text())
    assert [one["name"] for one in found["runs"]] == [run] and "SFT" in {p["label"] for p in found["policies"]}
    again = morlaif(folder, "stages=[compare]", f"compare.runs=[{run}]", "paths.store=elsewhere")
    assert again.returncode == 0 and "(cached," in again.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stages=[compare]"], "compare.runs: name the runs to compare"),
        (["stages=[compare]", "compare.runs=nothing"], "compare.runs: no run folder matches 'nothing'."),
        (["stages=[compare,report]"], "compare reads finished runs and goes with no other stage"),
        (["-m", "stages=[compare]", "seed=0,1"], "is one job, not a sweep"),
    ],
)
def test_a_mistake_in_a_comparison_costs_one_line(arguments, line, tmp_path):
    done = morlaif(tmp_path, *arguments)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
