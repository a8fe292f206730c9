"""A run that is asked to end, and two starts of one command: real processes on a tiny world."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cli
import pytest

pytestmark = pytest.mark.slow

SMALL = ["experiment=smoke", "stages=[sft]", "data.sft=30", "data.train=4", "data.eval=4"]
LONG, SHORT = [*SMALL, "sft.max_steps=100000"], [*SMALL, "sft.max_steps=20", "hardware.workers=1"]


def start(folder: Path, *arguments: str, fresh: bool = False) -> subprocess.Popen[str] | cli.Run:
    """`fresh`: each of its processes is a new Python; else they are forked (`warm`)."""
    if not fresh:
        return cli.Run(arguments, folder, {"COLUMNS": "300"}, warm=True)

    def as_from_a_shell() -> None:  # a test may itself run where signals are ignored
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "morlaif", *arguments], cwd=folder, preexec_fn=as_from_a_shell, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str] | cli.Run, folder: Path, pattern: str) -> Path:
    """The first file of that pattern that is not empty."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends and process.poll() is None:
        for path in folder.glob(pattern):
            if path.is_dir() or path.stat().st_size:
                return path
        time.sleep(0.02)
    raise AssertionError(f"no {pattern}: {process.communicate(timeout=10)}")


def children(parent: int) -> dict[int, str]:
    """The name and the command of each process below `parent`."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,comm,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    found: dict[int, str] = {}
    while new := {int(p): a for p, pp, a in rows if int(pp) in {parent, *found} and int(p) not in found}:
        found |= new
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("number", "whom", "workers", "fresh"),
    [
        (signal.SIGTERM, "the run", 2, True),
        (signal.SIGINT, "the run", 1, False),
        (signal.SIGTERM, "its worker", 2, False),
    ],
)
def test_a_run_that_is_asked_to_end_says_a_line_and_leaves_no_process(tmp_path, number, whom, workers, fresh):
    process = start(tmp_path, *LONG, f"hardware.workers={workers}", fresh=fresh)
    wait_for(process, tmp_path, "store/sft/.*/keep/metrics.jsonl")
    below = children(process.pid)
    target = process.pid if whom == "the run" else next(pid for pid, a in below.items() if a.startswith("worker-"))
    os.kill(target, number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert told.startswith("morlaif: ") and len(told.splitlines()) == 1
    assert f"ended by {number.name}; finished units, verdicts and checkpoints are kept" in told
    ends = time.monotonic() + 10
    while any(map(lives, below)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(map(lives, below)), below
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json"))
    assert record["status"] == "interrupted"
    assert {unit["name"]: unit["state"] for unit in record["units"]} == {"data": "built", "sft": "not_run"}


@pytest.mark.timeout(120)
def test_a_command_that_is_asked_to_end_while_it_plans_says_so_too(tmp_path):
    process = start(tmp_path, *LONG)
    wait_for(process, tmp_path, "runs/*")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143 and told.startswith("morlaif: ended by SIGTERM; ") and told.count("\n") == 1


def rows(folder: Path) -> list[tuple[str, int]]:
    (path,) = folder.glob("runs/*/metrics.jsonl")
    return [(row["unit"], row["step"]) for row in map(json.loads, path.read_text().splitlines())]


@pytest.mark.timeout(240)
def test_two_starts_of_one_command_make_one_run(tmp_path):
    first = start(tmp_path, *SHORT)
    wait_for(first, tmp_path, "runs/*/run.json")
    second = start(tmp_path, *SHORT)
    said = [process.communicate(timeout=120) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    told = " ".join(said[1][0].split())
    assert f"is being built by process {first.pid} on {platform.node()}; waiting for its end" in told
    assert max(Counter(rows(tmp_path)).values()) == 1 and len(rows(tmp_path)) >= 2
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json"))
    assert record["status"] == "succeeded" and {unit["state"] for unit in record["units"]} == {"cached"}
