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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import AcquireReturnProxy, FileLock, Timeout

from morlaif.errors import UserError
from morlaif.pipeline.unit import Unit

MANIFEST = "manifest.json"
State = Literal["built", "cached"]
Make = Callable[[Path, Path], dict[str, Any]]  # (out, keep) -> headline numbers


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
        final = self.folder(unit)
        work = final.with_name("." + unit.digest)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"paths.store={self.root}: cannot write there ({error.strerror})") from error
        with self._lock(work.with_name(work.name + ".lock"), on_wait):
            if self.has(unit):
                return "cached"
            out, keep = work / "out", work / "keep"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            keep.mkdir(exist_ok=True)
            started = time.monotonic()
            summary = make(out, keep)
            self._write_manifest(unit, out, summary, time.monotonic() - started)
            out.rename(final)
            shutil.rmtree(work)
        return "built"

    @staticmethod
    def _lock(path: Path, on_wait: Callable[[], None]) -> AcquireReturnProxy:
        lock = FileLock(path)
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
