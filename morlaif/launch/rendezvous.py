"""How the nodes of a run learn what to start: through a folder that all of them see.

The first node runs morlaif; for each unit on ranks it announces how they are started. The others (`follow`, started by
launch/multinode.sh) start theirs, and tell of a failure. The ranks themselves meet at an address and port of the first
node. MORLAIF_RENDEZVOUS names the folder, MORLAIF_ADDRESS the first node.

    <folder>/<n>.json            the n-th announcement
    <folder>/<n>.over            the first node is done with it, well or badly
    <folder>/<n>.failed.<node>   a node's ranks failed
    <folder>/end                 no more will come
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morlaif.errors import UserError
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
    def __init__(self, folder: Path, number: int):
        self.folder, self.number = folder, number

    def failures(self) -> list[dict[str, Any]]:
        """What the other nodes have told."""
        return [
            event
            for file in sorted(self.folder.glob(f"{self.number}.failed.*"))
            for event in json.loads(file.read_text())
        ]

    def close(self) -> None:
        (self.folder / f"{self.number}.over").touch()


def announce(accelerate: Sequence[Path], arguments: Sequence[str]) -> Announcement:
    """Tell every other node to start its ranks: node k with `accelerate[k]`."""
    folder = Path(os.environ[FOLDER])
    number = sum(1 for _ in folder.glob("*.json"))
    _write(folder / f"{number}.json", {"accelerate": [str(path) for path in accelerate], "arguments": list(arguments)})
    return Announcement(folder, number)


def follow(folder: Path, node: int) -> None:
    """Start this node's part of each announcement, one after another, until the end."""
    number = 0
    while not (folder / "end").exists() or (folder / f"{number}.json").exists():
        if (folder / f"{number}.json").exists():
            _start(folder, number, node)
            number += 1
        else:
            time.sleep(POLL)


def _start(folder: Path, number: int, node: int) -> None:
    from morlaif.config import Config
    from morlaif.launch.launcher import Node, rank_environment

    told = json.loads((folder / f"{number}.json").read_text())
    arguments = told["arguments"]
    hardware = Config.model_validate_json(Path(arguments[0]).read_text()).hardware
    log = Path(f"{arguments[-1]}.launch-node{node}.log")
    ranks = Node(Path(told["accelerate"][node]), arguments, rank_environment(hardware), log)
    failed: list[dict[str, Any]] = []
    try:
        while not (folder / f"{number}.over").exists():
            event = ranks.next(timeout=POLL)
            if event is None:
                continue
            if event["kind"] == "failed":
                failed.append(event)
            elif event["kind"] == "died" and not failed:
                failed += [
                    {**one, "user_error": False, "error": f"it ended with exit code {one['exitcode']}"}
                    for one in event["failures"]
                ]
            elif event["kind"] == "end":
                break
        if failed:
            _write(folder / f"{number}.failed.{node}", failed)
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
    with contextlib.suppress(KeyboardInterrupt):
        follow(Path(os.environ[FOLDER]), int(sys.argv[1]))
