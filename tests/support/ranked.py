"""Runs of the command line whose units are built on two ranks, watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "morlaif", *arguments]


def environment() -> dict[str, str]:
    # As under another launcher: its variables must not reach the ranks.
    return {**os.environ, "COLUMNS": "80", "RANK": "7", "WORLD_SIZE": "9", "MASTER_PORT": "1", "LOCAL_RANK": "7"}


def morlaif(folder: Path, arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout
    )


def start_until(folder: Path, arguments: Sequence[str], pattern: str, timeout: float) -> subprocess.Popen[str]:
    """A run that has just written a file of this pattern."""
    process = subprocess.Popen(
        command(arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    ends = time.monotonic() + timeout
    while not list(folder.glob(pattern)):
        if process.poll() is not None or time.monotonic() > ends:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.01)
    return process


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
