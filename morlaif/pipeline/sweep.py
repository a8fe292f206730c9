"""A sweep: which jobs it has, what became of each, and the page that compares them."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from morlaif.errors import MachineError, UserError, describe, of_system
from morlaif.files import read_json
from morlaif.pipeline.display import plain_table
from morlaif.pipeline.record import failure, now, read_run, write_whole
from morlaif.texts import add_row, redact, say
from morlaif.units.store import Store
from morlaif.units.unit import hash_json

if TYPE_CHECKING:
    from morlaif.config import Config

STYLES = {"succeeded": "green", "failed": "bold red", "interrupted": "yellow", "running": "yellow", "not run": "yellow"}
STYLES["damaged"] = STYLES["failed"]
SHOWN = 8  # runs whose reason for being left out is shown
SWEEPS = "sweeps"  # the folder beside the runs
Job = tuple[list[str], str]  # overrides, name of the run folder


class Sweep:
    """`<runs>/sweeps/<name>/sweep.json` lists the jobs; their states are read from their run folders, never kept twice.

    Beside it lies what compares them: comparison.html, comparison.json, figures/ and data/.
    """

    def __init__(self, runs: Path, jobs: list[Job], command: str, preset: str | None = None):
        self.runs, self.jobs, self.command = runs, jobs, command
        self.name = f"{preset or 'sweep'}-{hash_json([name for _, name in jobs])[:8]}"
        self.folder = runs / SWEEPS / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        listed = [{"overrides": overrides, "run": name} for overrides, name in jobs]
        text = json.dumps({"name": self.name, "command": command, "started": now(), "jobs": listed}, indent=1)
        write_whole(self.folder / "sweep.json", text)

    def states(self) -> list[tuple[list[str], str, dict[str, Any]]]:
        return [(overrides, name, _state(self.runs / name)) for overrides, name in self.jobs]

    def failed(self) -> Literal["", "by mistake", "otherwise"]:
        """Whether a job did not succeed, and whether the user's mistakes alone are why."""
        bad = [run for _, _, run in self.states() if run["status"] != "succeeded"]
        return "" if not bad else "by mistake" if all(run.get("mistaken") for run in bad) else "otherwise"

    def labels(self) -> list[str]:
        """The overrides of each job, without those that all jobs have."""
        shared = set.intersection(*(set(overrides) for overrides, _ in self.jobs)) if len(self.jobs) > 1 else set()
        return [" ".join(word for word in overrides if word not in shared) or "defaults" for overrides, _ in self.jobs]

    def close(self, console: Console) -> None:
        """Print what succeeded, failed and did not run."""
        (self.runs / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own note of the last sweep alone
        states = self.states()
        columns = ("job", "overrides", "status", "seconds", "win rate vs SFT")
        table = plain_table(*columns, right=slice(3, 4))
        table.columns[1].overflow = "fold"
        for number, ((_, name, run), label) in enumerate(zip(states, self.labels(), strict=True), 1):
            status = run["status"]
            seconds = f"{run['seconds']:.1f}" if "seconds" in run else ""
            add_row(table, str(number), label, (status, STYLES[status]), seconds, _win_rate(self.runs / name))
        counts = Counter(run["status"] for _, _, run in states)
        console.print()
        console.print(table)
        console.print()
        for _, name, run in states:
            if run["status"] in ("failed", "damaged"):
                say(console, (name, "bold red"), f" {failure(run) or run['error']}  ({self.runs / name})")
        say(console, ", ".join(f"{count} {status}" for status, count in counts.items()), f" — runs in {self.runs}")
        if counts["succeeded"] < len(states):
            say(console, f"the same command runs what is missing: {self.command}")

    def compare(self, config: Config, console: Console) -> bool:
        """Write the page that compares the jobs, however many of them succeeded. False if that failed."""
        folders = [self.runs / name for _, name in self.jobs]
        try:
            made = _page(folders, self.labels(), config, self.folder, self.command, console)
        except (UserError, MachineError) as error:  # the runs are finished, whatever happens to their page
            say(console, ("comparison failed:", "bold red"), f" {error}")
            return False
        if not made:
            say(console, "no comparison: no run has been evaluated")
        return True


def compare_runs(config: Config, command: str, console: Console) -> None:
    """`stages=[compare]`: a page for the finished runs that `compare.runs` names.

    Raises:
        UserError: `compare.runs` is missing, names none, or none that can be compared. MachineError: the page failed.
    """
    from morlaif.pipeline.compare import find, read

    if not config.compare.runs:
        raise UserError("compare.runs: name the runs to compare, as in compare.runs='runs/*' or compare.runs=[a,b]")
    runs = config.paths.runs
    folders = find(config.compare.runs, runs)
    if config.dry_run:
        store = Store(config.paths.store)
        for folder in folders:
            run = read(folder, store)
            why = f"  left out: {run.why}" if run and not run.evaluated else ""
            say(console, f"{folder}{why}")
        return
    out = runs / SWEEPS / f"comparison-{hash_json(sorted(map(str, folders)))[:8]}"
    if not _page(folders, [_overrides(folder) for folder in folders], config, out, command, console):
        found = [read(folder, Store(config.paths.store)) for folder in folders]
        reasons = [f"{run.folder.name} ({run.why})" for run in found if run is not None]
        more = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        asked = ", ".join(f"'{pattern}'" for pattern in config.compare.runs)
        raise UserError(
            f"compare.runs: nothing to compare: of the runs that {asked} names, {len(folders)} in all, none has an "
            f"evaluation: {', '.join(reasons[:SHOWN])}{more}"
        )


def _page(folders: list[Path], labels: list[str], config: Config, out: Path, command: str, console: Console) -> bool:
    """Write the page that compares runs; False where none can be.

    Raises:
        UserError, MachineError: it failed.
    """
    from morlaif.pipeline.compare import compare, read, tell

    store = Store(config.paths.store)
    try:
        runs = [read(folder, store) for folder in folders]
        names = [folder.name for folder in folders]
        page = compare(runs, names, labels, config.compare, out, store, config.hardware, command, console)
        if page is None:
            return False
        tell(config.tracking, out, len(runs), console)
    except (UserError, MachineError):
        raise
    except OSError as error:
        raise of_system(error) from error
    except Exception as error:
        log = out / "comparison.traceback.txt"
        with suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(redact(traceback.format_exc()), encoding="utf-8")
        raise MachineError(f"comparison: {describe(error)}; traceback: {log}") from error
    return True


def _state(folder: Path) -> dict[str, Any]:
    try:
        return read_run(folder) or {"status": "not run"}
    except MachineError as error:
        return {"status": "damaged", "units": [], "error": str(error)}


def _overrides(folder: Path) -> str:
    words = _state(folder).get("overrides")
    return " ".join(map(str, words)) if isinstance(words, list) and words else "defaults"


def _win_rate(folder: Path) -> str:
    try:
        rate = next(iter(read_json(folder / "results.json", of=dict)["win_rate"].values()))  # the policy over SFT
        return "" if rate["value"] is None else f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
    except (UserError, AttributeError, KeyError, StopIteration, TypeError, ValueError):
        return ""
