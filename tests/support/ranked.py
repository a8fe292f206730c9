"""Runs of the command line whose units are built on two ranks, watched from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cli


def command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "morlaif", *arguments]


def environment() -> dict[str, str]:
    # As under another launcher: its variables must not reach the ranks.
    return {**os.environ, "COLUMNS": "80", "RANK": "7", "WORLD_SIZE": "9", "MASTER_PORT": "1", "LOCAL_RANK": "7"}


def morlaif(folder: Path, arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return cli.morlaif(arguments, folder, environment(), timeout)


def start_until(folder: Path, arguments: Sequence[str], pattern: str, timeout: float) -> subprocess.Popen[str]:
    """A run, in a process group of its own, that has just written a file of this pattern; one that was not there."""
    before = _matching(folder, pattern)
    process = subprocess.Popen(
        command(arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        process_group=0,
    )  # fmt: skip
    ends = time.monotonic() + timeout
    while _matching(folder, pattern) <= before:
        if process.poll() is not None or time.monotonic() > ends:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.01)
    return process


def _matching(folder: Path, pattern: str) -> set[Path]:
    try:
        return set(folder.glob(pattern))
    except FileNotFoundError:  # a folder went while it was looked through
        return set()


def kill_rank(process: subprocess.Popen[str], folder: Path, rank: int, unit: str) -> None:
    """Kill one of the two ranks that build `unit`: the run names it and ends, and so does the other rank."""
    pids = rank_pids(folder)
    assert pids.keys() == {0, 1}
    os.kill(pids[rank], signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1, said
    flat = " ".join(said.split())
    log = f"{unit.replace('/', '-')}.rank-{rank}.log"
    assert f"rank {rank} was killed by SIGKILL" in flat and log in flat.replace(" ", ""), said
    assert_gone(list(pids.values()))


def kill_run(process: subprocess.Popen[str], folder: Path, group: bool = False) -> None:
    """Kill the command itself, or all of its process group: the ranks end with it."""
    pids = rank_pids(folder)
    assert pids.keys() == {0, 1}
    os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
    process.communicate(timeout=60)
    assert_gone(list(pids.values()))


def assert_went_on(done: subprocess.CompletedProcess[str], folder: Path, unit: str) -> None:
    """The last run in `folder` resumed `unit`, and has every step of it once, those before its checkpoint too."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{unit}: goes on after step " in done.stdout
    (file,) = folder.glob("runs/*/metrics.jsonl")
    rows = map(json.loads, file.read_text().splitlines())
    steps = [row["step"] for row in rows if row["unit"] == unit]
    assert steps and steps == sorted(set(steps))


def rank_pids(folder: Path) -> dict[int, int]:
    """Of the ranks of the run in `folder`, from their environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = dict(line.partition(b"=")[::2] for line in (process / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        ours = b"morlaif.launch.rank" in words and any(str(folder).encode() in word for word in words)
        if ours and b"RANK" in variables:
            found[int(variables[b"RANK"])] = int(process.name)
    return found


def assert_gone(pids: Sequence[int]) -> None:
    ends = time.monotonic() + 10
    while any(_state(pid) != "Z" for pid in pids):
        assert time.monotonic() < ends, "ranks outlive the run"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
