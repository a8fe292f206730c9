"""The run folder: what was asked, what became of it, and the numbers, in files that a person can read.

config.yaml     the resolved config          metrics.jsonl   every step of every loop
config.json     the same, for the workers    results.json    the headline numbers
run.json        status, versions, units      report.html     the page
.run.lock       held by who builds the run
logs/           what stages printed; the traceback of each that failed
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import node, python_version
from typing import TYPE_CHECKING, Any, Literal, get_args

from morlaif.errors import Damaged
from morlaif.files import read_json
from morlaif.texts import redact
from morlaif.units.locks import is_held
from morlaif.units.unit import Plan, Unit

if TYPE_CHECKING:
    from morlaif.config import Config

RUN = "run.json"
LOCK = ".run.lock"  # held by the process that builds the run
HUMAN = "human.json"  # what raters answered about a run, if anybody asked them
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
    host: str = field(default_factory=node)
    started: str = field(default_factory=lambda: now())
    finished: str | None = None
    seconds: float = 0.0
    git: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None  # of the run as a whole; a unit's own is with the unit
    mistaken: bool = False  # whether it failed by the user's mistake
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
        self.units = [UnitRecord(unit.name, unit.stage.name, unit.digest, seed=unit.seed) for unit in plan.units]
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
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_config(folder: Path, config: Config) -> None:
    import yaml

    tree = config.model_dump(mode="json")
    write_whole(folder / "config.json", json.dumps(tree, indent=1))
    write_whole(folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder, None where there is none; a run whose process is gone reads `interrupted`.

    Raises:
        Damaged: it cannot be read, or is not what a run writes.
    """
    path = folder / RUN
    if not os.path.lexists(path):
        return None
    run = read_json(path, "the record of a run", of=dict, failure=Damaged)
    if problem := _unlike_a_run(run):
        raise Damaged(f"{path}: {problem}: damaged, or written by another version")
    if run["status"] == "running" and not _at_work(folder, run):
        run["status"] = "interrupted"
    return run


def _unlike_a_run(run: Mapping[str, Any]) -> str | None:
    if run.get("status") not in get_args(Status):
        return f"status is {run.get('status')!r} where one of {', '.join(get_args(Status))} should be"
    if not isinstance(run.get("seconds"), int | float):
        return "seconds is no number"
    units = run.get("units")
    if not isinstance(units, list) or not all(isinstance(unit, dict) for unit in units):
        return "units is no list of units"
    for number, unit in enumerate(units):
        for key in ("name", "stage", "digest", "state"):
            if not isinstance(unit.get(key), str):
                return f"units[{number}].{key} is no text"
    return None


def failure(run: Mapping[str, Any]) -> str:
    """Why a run failed, in one line; empty where it did not."""
    if run["status"] != "failed":
        return ""
    failed = [f"{unit['name']}: {unit.get('error')}" for unit in run["units"] if unit["state"] == "failed"]
    return run.get("error") or "; ".join(failed)


def failures(run: Run) -> list[str]:
    """A line for each way in which units failed, with their names and where the first one's traceback is."""
    alike: dict[str, list[UnitRecord]] = {}
    for unit in run.units:
        if unit.state == "failed":
            alike.setdefault(unit.error or "", []).append(unit)
    lines = []
    for error, units in alike.items():
        others = f" and {len(units) - 1} more" if len(units) > 1 else ""
        log = f"; traceback: {run.folder / units[0].log}" if units[0].log else ""
        lines.append(f"{units[0].name}{others}: {error}{log}")
    return lines


def _at_work(folder: Path, run: Mapping[str, Any]) -> bool:
    """Whether the process that builds a run lives: it holds the lock, or, of an older version, has the number."""
    if (folder / LOCK).is_file():
        return is_held(folder / LOCK)
    return isinstance(run.get("pid"), int) and _alive(run["pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
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
