"""Build one unit on several ranks: write the files that start them, start them, hand on what they tell.

    worker process (holds the store's lock on the unit)
      └─ morlaif.launch.node, on each node: accelerate
           └─ morlaif.launch.rank × hardware.processes: the stage's `build(job)`

The worker imports no torch. It writes `ds.json`, `accelerate.yaml` and `command.sh` into `<run>/ranks/<unit>/`; what
each rank prints goes to `<run>/logs/<unit>.rank-<n>.log`. Whoever of them dies takes the others along: accelerate ends
the ranks of a node when one ends badly, the kernel ends children whose parent is gone, `rendezvous` tells other nodes.
"""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from morlaif.errors import ProcessFailed, UserError
from morlaif.hardware import HardwareSettings
from morlaif.launch import rendezvous
from morlaif.launch.deepspeed import accelerate_config, deepspeed_config
from morlaif.launch.local import Node, rank_environment
from morlaif.launch.processes import free_port, log_name
from morlaif.units.execute import AnyJob
from morlaif.units.unit import Unit

HEARING = 10.0  # seconds in which every node may tell of a failure


def build_on_ranks(unit: Unit, job: AnyJob, *, run: Path) -> dict[str, Any] | None:
    """Run the stage of `unit` on `job.hardware.ranks` ranks; its headline numbers. Otherwise as below."""
    end = build_together_on_ranks([unit], [job], run=run)[unit.name]
    if isinstance(end, Exception):
        raise end
    return end


def build_together_on_ranks(
    units: Sequence[Unit], jobs: Sequence[AnyJob], *, run: Path
) -> dict[str, dict[str, Any] | Exception]:
    """Run the stage of `units` once for all of them; the headline numbers of each, or its own failure.

    Args:
        run: the run's folder, with its config.json.

    Raises:
        UserError: a rank met a mistake of the user's.
        ProcessFailed: a rank failed or died; says which, how, and where its log is.
    """
    unit, job = units[0], jobs[0]
    folder = run / "ranks" / log_name(unit.name)
    folder.mkdir(parents=True, exist_ok=True)
    logs = run / "logs" / log_name(unit.name)
    files = write_files(unit, job.hardware, folder)
    places = {job.name: [str(job.out), str(job.keep)] for job in jobs}
    (folder / "units.json").write_text(json.dumps(places, indent=2) + "\n")
    arguments = [str(run / "config.json"), str(folder / "units.json"), str(files.ds), str(logs)]
    (folder / "command.sh").write_text(_by_hand(files.accelerate[0], arguments))
    for log in logs.parent.glob(f"{logs.name}.rank-*.log"):
        log.unlink()  # of an earlier try
    announced = rendezvous.announce(files.accelerate, arguments) if job.hardware.nodes > 1 else None
    node = Node(
        files.accelerate[0], arguments, rank_environment(job.hardware), logs.with_name(f"{logs.name}.launch.log")
    )
    try:
        return _follow(node, {job.name: job for job in jobs}, logs, announced)
    finally:
        node.end()
        if announced is not None:
            announced.close()


class _Files:
    def __init__(self, ds: Path, accelerate: list[Path]):
        self.ds, self.accelerate = ds, accelerate  # accelerate: one file a node


def write_files(unit: Unit, hardware: HardwareSettings, folder: Path) -> _Files:
    ds = folder / "ds.json"
    split, norm = unit.stage.microbatches(unit.reads, hardware.ranks), unit.stage.clips(unit.reads)
    ds.write_text(json.dumps(deepspeed_config(hardware, split, norm), indent=2) + "\n")
    address, port = ("127.0.0.1", free_port()) if hardware.nodes == 1 else rendezvous.meeting_point()
    nodes = []
    for node in range(hardware.nodes):
        name = "accelerate.yaml" if hardware.nodes == 1 else f"accelerate-node{node}.yaml"
        nodes.append(folder / name)
        nodes[-1].write_text(yaml.safe_dump(accelerate_config(hardware, ds, node, address, port), sort_keys=False))
    return _Files(ds, nodes)


def _by_hand(accelerate: Path, arguments: Sequence[str]) -> str:
    words = ["accelerate", "launch", "--config_file", str(accelerate), "-m", "morlaif.launch.rank", *arguments]
    return f"# What the run starts, to be started by hand while looking for a fault.\n{shlex.join(words)}\n"


def _follow(
    node: Node, jobs: Mapping[str, AnyJob], logs: Path, announced: rendezvous.Announcement | None
) -> dict[str, dict[str, Any] | Exception]:
    """Hear this node to its end, and the others as far as they complain; how each unit ended."""
    heard, elsewhere, until = _Heard(jobs, logs), list[dict[str, Any]](), math.inf
    while time.monotonic() < until:
        if (event := node.next(timeout=0.5)) is not None:
            heard.take(event)
        if announced is not None and (event is None or heard.over):  # not for each step: the folder is shared
            elsewhere = announced.failures()
        if heard.over and (heard.ends is not None or announced is None or len(elsewhere) == announced.others):
            break
        if heard.over or elsewhere:  # complaints may come before word of the failure: hear all, but not for ever
            until = min(until, time.monotonic() + HEARING)
    return heard.outcome(elsewhere, node.log)


@dataclass
class _Heard:
    """What the ranks of a unit have reported so far."""

    jobs: Mapping[str, AnyJob]
    logs: Path
    failures: list[dict[str, Any]] = field(default_factory=list)
    deaths: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[str, dict[str, Any] | Exception] | None = None
    over: bool = False

    def take(self, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "progress":
                self.jobs[event["unit"]].on_progress(event["step"], event["total"], event["metrics"])
            case "built":
                self.ends = {name: _end(end, self.logs) for name, end in event["ends"].items()}
            case "failed":
                self.failures.append(event)
            case "died":
                self.deaths += event["failures"]
            case "end":
                self.over = True

    def outcome(self, elsewhere: Sequence[dict[str, Any]], log: Path) -> dict[str, dict[str, Any] | Exception]:
        """How each unit ended.

        Raises:
            UserError, ProcessFailed: a rank failed, here or on another node.
        """
        failures = self.failures + [event for one in elsewhere for event in one["failures"]]
        deaths = self.deaths + [event for one in elsewhere for event in one["deaths"]]
        if self.ends is not None and not failures and not deaths:
            return self.ends
        silent = [Path(one["log"]) for one in elsewhere if not one["failures"] and not one["deaths"]]
        raise failure(failures, deaths, self.logs, silent[0] if silent else log)


def _end(end: dict[str, Any], logs: Path) -> dict[str, Any] | Exception:
    """What became of one of several units."""
    if "error" not in end:
        return end["summary"]
    return UserError(end["error"]) if end["user_error"] else _failed(0, f"failed: {end['error']}", logs)


def failure(
    failures: Sequence[dict[str, Any]], deaths: Sequence[dict[str, Any]], logs: Path, launch_log: Path
) -> UserError | ProcessFailed:
    """The one failure that the others follow from.

    A rank that a signal killed comes first, since it cannot say so, and its neighbours complain of a lost connection;
    SIGTERM is how they are ended. Then the rank that complained first.
    """
    for death in sorted(deaths, key=lambda death: death["time"]):
        code = death["exitcode"]
        if code < 0 and code != -signal.SIGTERM:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            return _failed(death["rank"], f"was killed by {signal.Signals(-code).name}{hint}", logs)
    for event in sorted(failures, key=lambda event: event["time"]):
        if event["user_error"]:
            return UserError(event["error"])
        return _failed(event["rank"], f"failed: {event['error']}", logs)
    for death in sorted(deaths, key=lambda death: (death["exitcode"] == -signal.SIGTERM, death["time"])):
        if death["exitcode"] != -signal.SIGTERM:
            return _failed(death["rank"], f"exited with {death['exitcode']}", logs)
        return ProcessFailed(f"rank {death['rank']} was ended by SIGTERM", "", asked=True)
    text = launch_log.read_text(errors="replace").strip() if launch_log.is_file() else ""
    last = text.splitlines()[-1] if text else "nothing was printed"
    return ProcessFailed(f"the ranks could not be started: {last}", text)


def _failed(rank: int, how: str, logs: Path) -> ProcessFailed:
    log = logs.with_name(f"{logs.name}.rank-{rank}.log")
    text = log.read_text(errors="replace") if log.is_file() else ""
    return ProcessFailed(f"rank {rank} {how}; its output: {log}", text or "the rank printed nothing\n")
