"""What a person sees on the terminal: a line for each unit at work, and tables at the end. Fits 80 columns."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from morlaif.pipeline.beat import Beat, shown_metric
from morlaif.pipeline.record import Run, UnitRecord
from morlaif.pipeline.timing import Times, duration
from morlaif.texts import add_row, say, visible
from morlaif.texts import line as styled
from morlaif.units.store import Store
from morlaif.units.unit import Plan, Unit

EVERY = 30.0  # seconds between two lines about a unit at work, where there is no terminal
STYLES = {"built": "green", "cached": "cyan", "failed": "bold red", "not_run": "yellow", "to do": "yellow"}
STYLES["damaged"] = STYLES["failed"]


class Display:
    """Lines of progress on a terminal; on anything else, one line for each finished unit, and while one is at work a
    line every half minute at least."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self.console = console or Console(stderr=False, highlight=False)
        self.clock = clock
        self.live = self.console.is_terminal
        self.bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", table_column=None, markup=False),
            BarColumn(bar_width=14),
            TextColumn("{task.fields[steps]}", markup=False),
            TextColumn("{task.fields[metric]}", style="dim", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console, transient=True,
        )  # fmt: skip
        self.tasks: dict[str, TaskID] = {}
        self.beats: dict[str, tuple[list[str], Beat]] = {}  # units at work that are built in one go, by what joins them
        self.lock = threading.Lock()
        self.over = threading.Event()

    def __enter__(self) -> Display:
        if self.live:
            self.bars.start()
        else:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.bars.stop()

    def _watch(self) -> None:
        """A unit may be silent for long within a step, and this process may be the one that builds it."""
        while not self.over.wait(1.0):
            self.beat()

    def beat(self) -> None:
        """A line about each unit at work that none was written about lately."""
        now, lines = self.clock(), []
        with self.lock:
            for names, beat in self.beats.values():
                if now - beat.written >= EVERY:
                    beat.written = now
                    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
                    lines.append(f"{names[0] + others:<24} {beat.line(now)}")
        for line in lines:
            self.say(line)

    def say(self, line: str) -> None:
        say(self.console, line)

    def begin(self, unit: Unit) -> None:
        if self.live:
            self.tasks[unit.name] = self.bars.add_task(visible(unit.name), total=None, steps="", metric="")
            return
        now = self.clock()
        with self.lock:
            fresh: tuple[list[str], Beat] = ([], Beat(unit.stage.counts, now, now))
            self.beats.setdefault(unit.together or unit.name, fresh)[0].append(unit.name)

    def progress(self, unit: Unit, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        if unit.name in self.tasks:
            steps = f"{step:,}/{total:,}" if total else f"{step:,}"
            self.bars.update(self.tasks[unit.name], completed=step, total=total, steps=steps)
            if metric := shown_metric(metrics):
                self.bars.update(self.tasks[unit.name], metric=visible(metric))
        elif found := self.beats.get(unit.together or unit.name):
            with self.lock:
                found[1].on(self.clock(), step, total, metrics)

    def end(self, unit: Unit, state: str, seconds: float) -> None:
        if unit.name in self.tasks:
            self.bars.remove_task(self.tasks.pop(unit.name))
        with self.lock:
            if (found := self.beats.get(key := unit.together or unit.name)) and unit.name in found[0]:
                found[0].remove(unit.name)
                if not found[0]:
                    del self.beats[key]
        if state != "cached" and not self.live:
            self.say(f"{unit.name:<24} {state:<7} {seconds:7.1f} s")


def plain_table(*columns: str, right: slice = slice(0, 0)) -> Table:
    """A table without lines; the columns of `right` hold numbers."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[right]:
        column.justify = "right"
    return table


def plan_table(plan: Plan, store: Store, times: Times | None = None) -> Table:
    """Stage, unit, digest, cached or to do or damaged, which is to do again; how long it takes, where that is known."""
    table = plain_table("stage", "unit", "digest", "state", *(["time"] if times else []), right=slice(4, None))
    for unit in plan.units:
        state = store.state(unit)
        cells = [] if times is None else [duration(times.seconds[unit.name]) if unit.name in times.seconds else "·"]
        add_row(table, unit.stage.name, unit.name, unit.digest, (state, STYLES[state]), *cells)
    if times is not None and times.seconds:
        add_row(table, ("in all", "bold"), "", "", "", duration(times.total))
        table.caption, table.caption_justify = styled(f"(time one after another; {times.source})"), "left"
    return table


def units_table(units: Sequence[UnitRecord]) -> Table:
    """A row for each stage; each failed unit by name."""
    columns = ("stage", "units", "built", "cached", "failed", "not run", "seconds")
    table = plain_table(*columns, right=slice(1, None))
    for stage in dict.fromkeys(unit.stage for unit in units):
        members = [unit for unit in units if unit.stage == stage]
        counts = Counter(unit.state for unit in members)
        cells = [
            (str(counts[state]), STYLES[state]) if counts[state] else ("·", "dim")
            for state in ("built", "cached", "failed", "not_run")
        ]
        add_row(table, stage, str(len(members)), *cells, f"{sum(unit.seconds for unit in members):.1f}")
    return table


def results_table(results: Mapping[str, Any]) -> Table:
    """The headline numbers with their intervals."""
    table = plain_table("result", "value", "95 % interval", "n", right=slice(1, None))
    for name, value in _rows(results):
        if isinstance(value, Mapping):
            interval = f"{value['low']:.3f} – {value['high']:.3f}" if value.get("low") is not None else ""
            count = f"{value['n']:,}" if value.get("n") is not None else ""
            add_row(table, name, f"{value['value']:.3f}", interval, count)
        else:
            add_row(table, name, f"{value:.3f}", "", "")
    return table


def _rows(results: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    models = [entry for entry in results.get("pm_accuracy", {}).values() if entry["value"] is not None]
    if models:
        rows.append((f"PM accuracy, mean of {len(models)}", sum(entry["value"] for entry in models) / len(models)))
        rows.append(("PM accuracy, worst", min(models, key=lambda entry: entry["value"])))
    for name, entry in results.get("win_rate", {}).items():
        if entry["value"] is not None:
            rows.append((f"win rate, {name.replace('_', ' ')}", entry))
    for name, value in results.get("reward", {}).items():
        if isinstance(value, int | float):
            rows.append((f"reward, {name} step", value))
    if isinstance(results.get("kl"), int | float):
        rows.append(("KL to the SFT policy, nats", results["kl"]))
    return rows


def closing(console: Console, run: Run, results: Mapping[str, Any], report: Path | None) -> None:
    """What became of the run; why units failed is for whoever started it to say."""
    console.print()
    console.print(units_table(run.units))
    if results:
        console.print()
        console.print(results_table(results))
    console.print()
    for unit in run.units:
        if unit.damaged:
            say(console, f"{unit.name}: {unit.damaged}")
    if report:
        say(console, f"report: {report}")
    say(console, f"run:    {run.folder}  ({run.status}, {run.seconds:.1f} s)")
