"""The store: one folder for each finished unit, written beside and renamed into place, under a lock.

<store>/<stage>/<digest>/               finished; never changes; its manifest.json says what it is
<store>/<stage>/.<digest>/out           being written; thrown away when a build starts again
<store>/<stage>/.<digest>/keep          checkpoints; outlive a kill, gone when the unit is finished
<store>/<stage>/.<digest>.lock          held by whoever builds it
<store>/ledger.sqlite                   verdicts, shared by all runs
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import AcquireReturnProxy, FileLock, Timeout

from morlaif.errors import UserError
from morlaif.pipeline.unit import Unit

MANIFEST = "manifest.json"
State = Literal["built", "cached"]
Make = Callable[[Path, Path], dict[str, Any]]  # (out, keep) -> headline numbers
Places = Mapping[str, tuple[Path, Path]]  # unit name -> (out, keep)
MakeTogether = Callable[[Sequence[Unit], Places], Mapping[str, dict[str, Any] | Exception]]


class Store:
    def __init__(self, root: Path):
        self.root = root

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    def folder(self, unit: Unit) -> Path:
        return self.root / unit.stage / unit.digest

    def has(self, unit: Unit) -> bool:
        return (self.folder(unit) / MANIFEST).is_file()

    def manifest(self, unit: Unit) -> dict[str, Any]:
        return json.loads((self.folder(unit) / MANIFEST).read_text())

    def build(self, unit: Unit, make: Make, on_wait: Callable[[], None] = lambda: None) -> State:
        """Have `unit` built: by `make`, unless it is there or another process builds it meanwhile."""
        if self.has(unit):
            return "cached"
        with self._lock(unit, on_wait):
            if self.has(unit):
                return "cached"
            out, keep = self._begin(unit)
            started = time.monotonic()
            summary = make(out, keep)
            self._finish(unit, out, summary, time.monotonic() - started)
        return "built"

    def build_together(
        self, units: Sequence[Unit], make: MakeTogether, on_wait: Callable[[Unit], None] = lambda unit: None
    ) -> dict[str, State | Exception]:
        """Have `units` built in one go, each into its own folder; what became of each, by name.

        Those that are there already are left out. The locks are taken in one order for all processes, so that none
        waits for another that waits for it.
        """
        ends: dict[str, State | Exception] = {}
        with ExitStack() as locks:
            for unit in sorted(units, key=lambda unit: unit.digest):
                locks.enter_context(self._lock(unit, lambda unit=unit: on_wait(unit)))
            missing = [unit for unit in units if not self.has(unit)]
            places = {unit.name: self._begin(unit) for unit in missing}
            started = time.monotonic()
            made = make(missing, places) if missing else {}
            share = (time.monotonic() - started) / max(1, len(missing))
            for unit in missing:
                summary = made[unit.name]
                if isinstance(summary, Exception):
                    ends[unit.name] = summary
                else:
                    self._finish(unit, places[unit.name][0], summary, share)
                    ends[unit.name] = "built"
        return {unit.name: ends.get(unit.name, "cached") for unit in units}

    def _work(self, unit: Unit) -> Path:
        return self.folder(unit).with_name("." + unit.digest)

    def _begin(self, unit: Unit) -> tuple[Path, Path]:
        """An empty folder to write into, and the one whose checkpoints stay."""
        work = self._work(unit)
        out, keep = work / "out", work / "keep"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        keep.mkdir(exist_ok=True)
        return out, keep

    def _finish(self, unit: Unit, out: Path, summary: dict[str, Any], seconds: float) -> None:
        self._write_manifest(unit, out, summary, seconds)
        out.rename(self.folder(unit))
        shutil.rmtree(self._work(unit))

    def _lock(self, unit: Unit, on_wait: Callable[[], None]) -> AcquireReturnProxy:
        work = self._work(unit)
        try:
            work.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"paths.store={self.root}: cannot write there ({error.strerror})") from error
        lock = FileLock(work.with_name(work.name + ".lock"))
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            return lock.acquire()

    @staticmethod
    def _write_manifest(unit: Unit, out: Path, summary: dict[str, Any], seconds: float) -> None:
        manifest = {
            **unit.identity,
            "digest": unit.digest,
            "summary": summary,
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "files_written": {
                str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()
            },
        }
        with (out / MANIFEST).open("w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
