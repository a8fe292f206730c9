"""The run folder: what was asked, what became of it, and the numbers, in files that a person can read.

config.yaml     the resolved config          metrics.jsonl   every step of every loop
config.json     the same, for the workers    results.json    the headline numbers
run.json        status, versions, units      report.html     the page
logs/           what stages printed; the traceback of each that failed
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, Literal

from morlaif.pipeline.unit import Plan, Unit
from morlaif.texts import redact

if TYPE_CHECKING:
    from morlaif.config import Config

RUN = "run.json"
HUMAN = "human.json"  # what raters said of a run, if anybody asked them
PACKAGES = (
    "morlaif", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers",
    "hydra-core", "openai", "numpy",
)  # fmt: skip

Status = Literal["running", "succeeded", "failed", "interrupted"]
UnitState = Literal["built", "cached", "failed", "not_run"]


@dataclass
class UnitRecord:
    name: str
    stage: str
    digest: str
    state: UnitState = "not_run"
    seconds: float = 0.0  # that this run spent on it
    seed: int = 0
    error: str | None = None
    log: str | None = None  # of a failed unit, relative to the run folder
    damaged: str | None = None  # what of it was found damaged in the store, and where that was set aside


@dataclass
class Run:
    """The contents of run.json, written anew, whole, at each change."""

    folder: Path
    name: str
    command: str
    overrides: list[str]
    seed: int
    status: Status = "running"
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: now())
    finished: str | None = None
    seconds: float = 0.0
    git: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None  # of the run as a whole; a unit's own stands with the unit
    units: list[UnitRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clock = time.monotonic()

    @classmethod
    def open(cls, folder: Path, config: Config, command: str, overrides: list[str]) -> Run:
        run = cls(folder, config.name, command, overrides, config.seed, git=git_state(), versions=versions())
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, config)
        run.write()
        return run

    def plan(self, plan: Plan) -> None:
        self.units = [UnitRecord(unit.name, unit.stage, unit.digest, seed=unit.seed) for unit in plan.units]
        self.write()

    def set(
        self, unit: Unit, state: UnitState, seconds: float = 0.0, error: str | None = None, log: str | None = None
    ) -> None:
        record = next(record for record in self.units if record.name == unit.name)
        record.state, record.seconds, record.error, record.log = state, round(seconds, 3), error, log
        self.write()

    def note(self, unit: Unit, damaged: str) -> None:
        next(record for record in self.units if record.name == unit.name).damaged = damaged
        self.write()

    def close(self, status: Status, error: str | None = None) -> None:
        self.status, self.finished, self.error = status, now(), error
        self.write()

    def write(self) -> None:
        self.seconds = round(time.monotonic() - self._clock, 3)
        write_whole(self.folder / RUN, json.dumps(self.as_dict(), indent=1))

    def as_dict(self) -> dict[str, Any]:
        """The contents of run.json, which a page shows too: no secret, whatever a command or an error holds."""
        return redact({key: value for key, value in asdict(self).items() if key != "folder"})


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once: a reader or a crash sees the old text or the new."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    beside.replace(path)


def write_config(folder: Path, config: Config) -> None:
    import yaml

    tree = config.model_dump(mode="json")
    write_whole(folder / "config.json", json.dumps(tree, indent=1))
    write_whole(folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))


def read_run(folder: Path) -> Mapping[str, Any] | None:
    """run.json of a folder, None where there is none; a run whose process is gone reads `interrupted`."""
    try:
        run = json.loads((folder / RUN).read_text())
    except FileNotFoundError:
        return None
    if run["status"] == "running" and not _alive(run["pid"]):
        run["status"] = "interrupted"
    return run


def failure(run: Mapping[str, Any]) -> str:
    """Why a run failed, in one line; empty where it did not."""
    if run["status"] != "failed":
        return ""
    failed = [f"{unit['name']}: {unit['error']}" for unit in run["units"] if unit["state"] == "failed"]
    return run.get("error") or "; ".join(failed)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a number, without importing them."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the code that runs, and whether it was changed since; None for an installed package."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        if not git("ls-files", "--", __file__).strip():
            return None  # a repository that holds someone's virtual environment is not ours
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain", "-uno").strip())}
    except (OSError, subprocess.CalledProcessError):
        return None
