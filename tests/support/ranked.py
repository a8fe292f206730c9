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


def start_until(
    folder: Path, arguments: Sequence[str], pattern: str, timeout: float, fresh: bool = False
) -> subprocess.Popen[str] | cli.Run:
    """A run, in a process group of its own, that has just written a file of this pattern; one that was not there.

    `fresh`: each of its processes is a new Python; else they are forked (`warm`).
    """
    before = _matching(folder, pattern)
    process: subprocess.Popen[str] | cli.Run
    if fresh:
        process = subprocess.Popen(
            command(arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, process_group=0,
        )  # fmt: skip
    else:
        process = cli.Run(arguments, folder, environment(), group=True, warm=True)
    ends = time.monotonic() + timeout
    while _matching(folder, pattern) <= before:
        if process.poll() is not None or time.monotonic() > ends:
            process.kill()
            raise AssertionError(process.communicate(timeout=10))
        time.sleep(0.01)
    return process


def _matching(folder: Path, pattern: str) -> set[Path]:
    try:
        return set(folder.glob(pattern))
    except FileNotFoundError:  # a folder went while it was looked through
        return set()


def kill_rank(process: subprocess.Popen[str] | cli.Run, folder: Path, rank: int, unit: str) -> None:
    """Kill one of the two ranks that build `unit`: the run names it and ends, and so does the other rank."""
    pids = rank_pids(process.pid)
    assert pids.keys() == {0, 1}
    os.kill(pids[rank], signal.SIGKILL)
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 1, said
    flat = " ".join(said.split())
    log = f"{unit.replace('/', '-')}.rank-{rank}.log"
    assert f"rank {rank} was killed by SIGKILL" in flat and log in flat.replace(" ", ""), said
    assert_gone(list(pids.values()))


def kill_run(process: subprocess.Popen[str] | cli.Run, folder: Path, group: bool = False) -> None:
    """Kill the command itself, or all of its process group: the ranks end with it."""
    pids = rank_pids(process.pid)
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


def rank_pids(run: int) -> dict[int, int]:
    """Of the ranks below the process of a run: a new Python tells by command and environment, another by its name."""
    found = {}
    for pid in _below(run):
        process = Path(f"/proc/{pid}")
        try:
            name = (process / "comm").read_text().strip()
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = dict(line.partition(b"=")[::2] for line in (process / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if name.startswith("rank-"):
            found[int(name.removeprefix("rank-"))] = pid
        elif b"morlaif.launch.rank" in words and b"RANK" in variables:
            found[int(variables[b"RANK"])] = pid
    return found


def _below(parent: int) -> set[int]:
    """All processes that this one and its children have started."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {parent}
    while new := {pid for pid, above in parents.items() if above in found and pid not in found}:
        found |= new
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
