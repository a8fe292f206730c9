"""The store: one folder for each finished unit, written beside and renamed into place, under a lock.

<store>/<stage>/<digest>/               finished; never changes; its manifest.json says what it is
<store>/<stage>/<digest>.damaged        what was found damaged, set aside and built again; nothing reads it
<store>/<stage>/.<digest>/out           being written; thrown away when a build starts again
<store>/<stage>/.<digest>/keep          checkpoints; outlive a kill, gone when the unit is finished
<store>/<stage>/.<digest>.lock          held by whoever builds it, whose process and host it names
<store>/ledger.sqlite                   verdicts, shared by all runs
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from morlaif.errors import UserError, of_system
from morlaif.units.folders import full_disk, place_problems
from morlaif.units.integrity import damage, read_manifest, write_manifest
from morlaif.units.locks import locked
from morlaif.units.unit import Unit

State = Literal["built", "cached"]
Make = Callable[[Path, Path], dict[str, Any]]  # (out, keep) -> headline numbers
Places = Mapping[str, tuple[Path, Path]]  # unit name -> (out, keep)
MakeTogether = Callable[[Sequence[Unit], Places], Mapping[str, dict[str, Any] | Exception]]
Tell = Callable[[Unit, str, str], None]  # unit, kind of what happens ("waiting", "damaged" …), a line about it


def _silent(unit: Unit, kind: str, line: str) -> None: ...


class Store:
    def __init__(self, root: Path):
        self.root = root
        self._sound: set[Path] = set()  # folders that this process has looked at

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    def folder(self, unit: Unit) -> Path:
        return self.root / unit.stage.name / unit.digest

    def has(self, unit: Unit) -> bool:
        """Whether `unit` is there and as it was written; looked at once by each process."""
        return self.state(unit) == "cached"

    def state(self, unit: Unit) -> Literal["cached", "damaged", "to do"]:
        folder = self.folder(unit)
        if folder in self._sound:
            return "cached"
        with self._named():
            there = os.path.lexists(folder)
        if there and self._damage(folder) is None:
            return "cached"
        return "damaged" if there else "to do"

    def manifest(self, unit: Unit) -> dict[str, Any]:
        """
        Raises:
            Damaged: it changed since it was looked at.
        """
        return read_manifest(self.folder(unit))

    def check_place(self, units: Sequence[Unit]) -> None:
        """
        Raises:
            UserError, MachineError: one of `units` is to be built, and the store can have nothing written to it.
        """
        if all(self.has(unit) for unit in units):
            return
        for problem in place_problems("paths.store", self.root):
            raise UserError(problem)
        if full := full_disk("paths.store", self.root):
            raise full

    def build(self, unit: Unit, make: Make, tell: Tell = _silent) -> State:
        """Have `unit` built: by `make`, unless it is there or another process builds it meanwhile."""

        def make_all(units: Sequence[Unit], places: Places) -> Mapping[str, dict[str, Any]]:
            return {unit.name: make(*places[unit.name])}

        end = self.build_together([unit], make_all, tell)[unit.name]
        assert not isinstance(end, Exception)
        return end

    def build_together(
        self, units: Sequence[Unit], make: MakeTogether, tell: Tell = _silent
    ) -> dict[str, State | Exception]:
        """Have `units` built in one go, each into its own folder; what became of each, by name.

        Those that are there already are left out. The locks are taken in one order for all processes, so that none
        waits for another that waits for it.

        Raises:
            UserError, MachineError: the store cannot be read or written. Whatever `make` raises.
        """
        ends: dict[str, State | Exception] = {}
        with ExitStack() as locks:
            for unit in sorted(units, key=lambda unit: unit.digest):
                if not self.has(unit):
                    locks.enter_context(self._lock(unit, tell))
            missing = [unit for unit in units if not self.has(unit)]
            places = {unit.name: self._begin(unit, tell) for unit in missing}
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

    def read_again(self, unit: Unit) -> str | None:
        """Read all of a unit that a stage stumbled over; if it is damaged, set it aside and return what was wrong."""
        folder = self.folder(unit)
        if not os.path.lexists(folder) or (wrong := damage(folder, thorough=True)) is None:
            return None
        with self._lock(unit, _silent):
            return self._set_aside(folder, wrong)

    def _damage(self, folder: Path) -> str | None:
        with self._named():
            wrong = damage(folder)
        if wrong is None:
            self._sound.add(folder)
        return wrong

    def _set_aside(self, folder: Path, wrong: str) -> str:
        """Rename what is damaged; its place is free again. The line that says so."""
        count, aside = 1, folder.with_name(f"{folder.name}.damaged")
        while os.path.lexists(aside):
            count, aside = count + 1, folder.with_name(f"{folder.name}.damaged-{count + 1}")
        with self._named(str(folder)):
            folder.rename(aside)
        self._sound.discard(folder)
        return f"{folder} was damaged ({wrong}); set aside as {aside.name} and built again"

    def _work(self, unit: Unit) -> Path:
        return self.folder(unit).with_name("." + unit.digest)

    def checkpoints(self, unit: Unit) -> Path:
        """Where an unfinished unit keeps what a kill must not take."""
        return self._work(unit) / "keep"

    def _begin(self, unit: Unit, tell: Tell) -> tuple[Path, Path]:
        """An empty folder to write into, and the one whose checkpoints stay; the lock is held."""
        folder, work = self.folder(unit), self._work(unit)
        if os.path.lexists(folder):
            tell(unit, "damaged", self._set_aside(folder, self._damage(folder) or "it is not what was looked at"))
        if os.path.lexists(work) and not work.is_dir():
            tell(unit, "damaged", self._set_aside(work, "it is no folder"))
        out, keep = work / "out", self.checkpoints(unit)
        with self._named():
            if os.path.lexists(out):
                shutil.rmtree(out) if out.is_dir() and not out.is_symlink() else out.unlink()
            out.mkdir(parents=True)
            keep.mkdir(exist_ok=True)
        return out, keep

    def _finish(self, unit: Unit, out: Path, summary: dict[str, Any], seconds: float) -> None:
        with self._named():
            about = {
                **unit.identity,
                "name": unit.name,  # a digest may call it by an older one
                "digest": unit.digest,
                "summary": summary,
                "seconds": round(seconds, 3),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "host": platform.node(),
            }
            write_manifest(out, about)
            out.rename(self.folder(unit))
            self._sound.add(self.folder(unit))
            shutil.rmtree(self._work(unit), ignore_errors=True)

    @contextmanager
    def _lock(self, unit: Unit, tell: Tell) -> Iterator[None]:
        work = self._work(unit)
        with ExitStack() as held:
            with self._named():
                work.parent.mkdir(parents=True, exist_ok=True)
                lock = locked(work.with_name(work.name + ".lock"), lambda holder: tell(unit, "waiting", holder))
                held.enter_context(lock)
            yield

    @contextmanager
    def _named(self, place: str = "") -> Iterator[None]:
        """An error of the system inside becomes one line that names the store."""
        try:
            yield
        except OSError as error:
            where = place or str(error.filename2 or error.filename or "")
            inside = where if not where or where == str(self.root) else f", {where}"
            raise of_system(error, f"paths.store={self.root}" + inside.removeprefix(str(self.root))) from error
