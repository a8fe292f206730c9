"""Build the units of a plan: each once its needs are there; one that fails holds up only what needs it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from textwrap import wrap
from typing import Any

from morlaif.hardware import HardwareSettings
from morlaif.launch.backends import Backend, InProcess, Workers
from morlaif.pipeline.display import Display
from morlaif.pipeline.record import Run, UnitState
from morlaif.signals import Ended, say_ended
from morlaif.texts import file_name
from morlaif.tracking import Tracker
from morlaif.units.execute import read_metrics
from morlaif.units.store import Store
from morlaif.units.unit import Plan, Unit


class Dispatcher:
    def __init__(
        self, plan: Plan, store: Store, hardware: HardwareSettings, run: Run, tracker: Tracker, display: Display
    ):
        self.plan, self.store, self.run, self.tracker, self.display = plan, store, run, tracker, display
        self.waiting = {unit.name: unit for unit in plan.units}
        self.started: dict[str, tuple[float, int]] = {}  # units at work: when they began, how many in one go
        self.there: set[str] = set()
        self.failed: set[str] = set()
        self.doubted: set[str] = set()
        self.mistaken = False  # whether a failure was the user's mistake
        self.backend: Backend = (
            InProcess(store, hardware, self._on_event)
            if hardware.workers == 1 and hardware.ranks == 1
            else Workers(run.folder / "config.json", run.folder / "logs", hardware, self._on_event)
        )

    def build(self) -> bool:
        """Build all that can be built; True if that is everything."""
        try:
            while True:
                self._start_ready()
                if not self.started and not self._ready():
                    return not self.failed
                if self.started:
                    self.backend.wait()
        finally:
            self.backend.close()

    def _ready(self) -> list[Unit]:
        return [unit for unit in self.waiting.values() if all(need.name in self.there for need in unit.needs)]

    def _start_ready(self) -> None:
        for unit in self._ready():
            if self.store.has(unit):
                del self.waiting[unit.name]
                self._finish(unit, "cached")
        for units in self._batches():
            if self.backend.can_start(units[0]):
                for unit in units:
                    del self.waiting[unit.name]
                    self.started[unit.name] = (time.monotonic(), len(units))
                    self.display.begin(unit)
                self.backend.start(units)

    def _batches(self) -> list[list[Unit]]:
        """Ready units, those that may be built together side by side.

        They wait for one another, except for those that will never be ready, since something they need failed.
        """
        batches: dict[str, list[Unit]] = {}
        ready = self._ready()
        for unit in ready:
            batches.setdefault(unit.together or unit.name, []).append(unit)
        names = {unit.name for unit in ready}
        held = {u.together for u in self.waiting.values() if u.name not in names and not self._doomed(u)}
        return [units for key, units in batches.items() if key not in held]

    def _doomed(self, unit: Unit) -> bool:
        return unit.name in self.failed or any(self._doomed(need) for need in unit.needs)

    def _on_event(self, event: dict[str, Any]) -> None:
        unit = self.plan.by_name[event["unit"]]
        match event["kind"]:
            case "progress":
                if event["metrics"]:
                    self.tracker.log(unit.stage.name, unit.name, event["step"], event["metrics"])
                    self._doubt(unit, event["metrics"])
                self.display.progress(unit, event["step"], event["total"], event["metrics"])
            case "waiting":
                self.display.say(f"{unit.name}: {event['line']} builds it; waiting")
            case "resumed":
                self.display.say(f"{unit.name}: {event['line']}")
            case "damaged":
                self.display.say(f"{unit.name}: {event['line']}")
                self.run.note(unit, event["line"])
            case "done":
                self._finish(unit, event["state"], self._spent(unit))
            case "failed" if event.get("asked"):
                say_ended(event["error"])
                raise Ended(signal.SIGTERM)
            case "failed":
                self._fail(unit, event)

    def _finish(self, unit: Unit, state: UnitState, seconds: float = 0.0) -> None:
        if state == "cached":
            for row in read_metrics(self.store.folder(unit)):
                self.tracker.log(unit.stage.name, unit.name, row["step"], row["metrics"])
        self.there.add(unit.name)
        self.run.set(unit, state, seconds)
        self.display.end(unit, state, seconds)
        self._doubt(unit, self.store.manifest(unit)["summary"])

    def _doubt(self, unit: Unit, numbers: dict[str, Any]) -> None:
        """Say once what is to be doubted of a unit."""
        if unit.name not in self.doubted:
            for line in unit.stage.doubts(unit, numbers):
                self.doubted.add(unit.name)
                for part in wrap(f"WARNING: {unit.name}: {line}", 80, break_long_words=False):
                    self.display.say(part)

    def _spent(self, unit: Unit) -> float:
        """Seconds since a unit began; of those built in one go, each has its share."""
        began, together = self.started.pop(unit.name)
        return (time.monotonic() - began) / together

    def _fail(self, unit: Unit, event: dict[str, Any]) -> None:
        seconds = self._spent(unit)
        log: Path | None = None
        if event["traceback"]:
            log = Path("logs") / f"{file_name(unit.name)}.traceback.txt"
            path = self.run.folder / log
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(event["traceback"], encoding="utf-8", errors="backslashreplace")
            except OSError:  # the disk is full: the line alone is reported
                log = None
        self.failed.add(unit.name)
        self.mistaken |= event["user_error"]
        self.run.set(unit, "failed", seconds, event["error"], None if log is None else str(log))
        self.display.end(unit, "failed", seconds)
