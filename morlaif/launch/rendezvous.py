"""How the nodes of a run learn what to start: through a folder that all of them see.

The first node runs morlaif; for each unit on ranks it announces how they are started. The others (`follow`, started by
launch/multinode.sh) start theirs, and tell of a failure. The ranks themselves meet at an address and port of the first
node. MORLAIF_RENDEZVOUS names the folder, MORLAIF_ADDRESS the first node.

    <folder>/<n>.json            the n-th announcement
    <folder>/<n>.over            the first node is done with it, well or badly
    <folder>/<n>.failed.<node>   a node's ranks failed, and what they and accelerate reported
    <folder>/end                 no more will come
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morlaif.config import Config
from morlaif.errors import UserError
from morlaif.launch.local import Node, rank_environment
from morlaif.launch.processes import free_port

FOLDER, ADDRESS = "MORLAIF_RENDEZVOUS", "MORLAIF_ADDRESS"
POLL = 0.5  # seconds


def meeting_point() -> tuple[str, int]:
    if FOLDER not in os.environ or ADDRESS not in os.environ:
        raise UserError(
            f"hardware.nodes is above 1, but {FOLDER} and {ADDRESS} are not set: start the run on each node by "
            "launch/multinode.sh, or by launch/slurm.sbatch"
        )
    return os.environ[ADDRESS], free_port()


class Announcement:
    def __init__(self, folder: Path, number: int, others: int):
        self.folder, self.number = folder, number
        self.others = others  # nodes that it is for

    def failures(self) -> list[dict[str, Any]]:
        """From each other node whose ranks failed: its `failures` and `deaths`."""
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob(f"{self.number}.failed.*"))]

    def close(self) -> None:
        (self.folder / f"{self.number}.over").touch()


def announce(accelerate: Sequence[Path], arguments: Sequence[str]) -> Announcement:
    """Tell every other node to start its ranks: node k with `accelerate[k]`."""
    folder = Path(os.environ[FOLDER])
    number = sum(1 for _ in folder.glob("*.json"))
    _write(folder / f"{number}.json", {"accelerate": [str(path) for path in accelerate], "arguments": list(arguments)})
    return Announcement(folder, number, len(accelerate) - 1)


def follow(folder: Path, node: int) -> None:
    """Start this node's part of each announcement, one after another, until the end."""
    number = 0
    if (folder / "end").exists():
        print(f"the run that met in {folder} has ended; give each run a folder of its own", file=sys.stderr)
        return
    while not (folder / "end").exists() or (folder / f"{number}.json").exists():
        if (folder / f"{number}.json").exists():
            _start(folder, number, node)
            number += 1
        else:
            time.sleep(POLL)


def _start(folder: Path, number: int, node: int) -> None:
    announced = json.loads((folder / f"{number}.json").read_text())
    arguments = announced["arguments"]
    hardware = Config.model_validate_json(Path(arguments[0]).read_text()).hardware
    log = Path(f"{arguments[-1]}.launch-node{node}.log")
    ranks = Node(Path(announced["accelerate"][node]), arguments, rank_environment(hardware), log)
    failures: list[dict[str, Any]] = []
    deaths: list[dict[str, Any]] = []
    badly = False
    try:
        while not (folder / f"{number}.over").exists():
            event = ranks.next(timeout=POLL)
            if event is None:
                continue
            if event["kind"] == "failed":
                failures.append(event)
            elif event["kind"] == "died":
                deaths = event["failures"]
            elif event["kind"] == "end":
                badly = ranks.process.wait() != 0
                break
        if badly:
            _write(folder / f"{number}.failed.{node}", {"failures": failures, "deaths": deaths, "log": str(log)})
        while not (folder / f"{number}.over").exists():
            time.sleep(POLL)
    finally:
        ranks.end()


def _write(path: Path, value: Any) -> None:
    """Whole or not there: a reader on another node may look at any moment."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value))
    os.replace(partial, path)


if __name__ == "__main__":
    # Told to end, as all nodes of a job are: its ranks end with it, and how the run ended is for the first node to say.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        follow(Path(os.environ[FOLDER]), int(sys.argv[1]))
