"""What a tracker receives, and the one that writes JSON lines: no account, no network."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from morlaif.texts import redact
from morlaif.tracking.values import number

METRICS = "metrics.jsonl"  # a row for each step of each loop
TRACKED = "tracked.jsonl"  # everything else, a row each: config, summary, tables, figures, artifacts


class Tracker(Protocol):
    """Receives what a run measures. No method raises because of the tracker itself: a run outlives its bookkeeping."""

    def log(self, stage: str, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step of one unit."""

    def summary(self, values: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> None:
        """The numbers that runs are compared by, and all others, nested."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table, such as sample responses."""

    def images(self, files: Mapping[str, Path]) -> None:
        """Figures, by name."""

    def artifact(self, name: str, kind: str, folder: Path, about: Mapping[str, Any]) -> None:
        """A finished folder, by reference: its content stays where it is."""

    def close(self, failed: bool = False) -> None:
        """Write what is left; nothing may follow."""


class LocalTracker:
    """Metrics as rows {time, stage, unit, step, metrics} of one file, all else as rows {kind, …} of another.

    Each row is flushed: a killed run keeps its curve.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metrics: TextIO | None = None  # opened by the first row
        self._lock = threading.Lock()
        (folder / TRACKED).unlink(missing_ok=True)  # written anew whenever a run is started again

    def log(self, stage: str, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        numbers = {name: number(value) for name, value in metrics.items()}
        row = {"time": round(time.time(), 3), "stage": stage, "unit": unit, "step": step, "metrics": numbers}
        with self._lock:
            self._metrics = self._metrics or (self._folder / METRICS).open("a", encoding="utf-8")
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Name, group, job type, tags and config of the run."""
        self._tell("run", **facts)

    def summary(self, values: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> None:
        self._tell("summary", values=values, details=details or {})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._tell("table", name=name, columns=list(columns), rows=[list(row) for row in rows])

    def images(self, files: Mapping[str, Path]) -> None:
        self._tell("images", files={name: str(path) for name, path in files.items()})

    def artifact(self, name: str, kind: str, folder: Path, about: Mapping[str, Any]) -> None:
        self._tell("artifact", name=name, type=kind, folder=str(folder), about=about)

    def close(self, failed: bool = False) -> None:
        if self._metrics:
            self._metrics.close()

    def _tell(self, kind: str, **row: Any) -> None:
        line = json.dumps({"kind": kind, **redact(row)}, ensure_ascii=False, default=str)
        with self._lock, (self._folder / TRACKED).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
