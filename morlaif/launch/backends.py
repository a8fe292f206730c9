"""Two ways to build units: one after another in this process, or several at once in worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from morlaif.devices import slot_environment
from morlaif.hardware import HardwareSettings
from morlaif.signals import Ended, say_ended
from morlaif.units.execute import execute_and_tell, execute_together_and_tell
from morlaif.units.store import Store
from morlaif.units.unit import Unit

# {"kind": "progress"|"waiting"|"done"|"failed", "unit": name, …}
Emit = Callable[[dict[str, Any]], None]


class Backend(Protocol):
    def can_start(self, unit: Unit) -> bool: ...

    def start(self, units: Sequence[Unit]) -> None: ...  # one, or some that are built together

    def wait(self) -> None: ...  # until something happened; events go to `emit`

    def close(self) -> None: ...


class InProcess:
    """`start` builds the unit before it returns."""

    def __init__(self, store: Store, hardware: HardwareSettings, emit: Emit):
        self.store, self.hardware, self.emit = store, hardware, emit

    def can_start(self, unit: Unit) -> bool:
        return True

    def start(self, units: Sequence[Unit]) -> None:
        if len(units) == 1:
            execute_and_tell(units[0], self.store, self.hardware, self.emit)
        else:
            execute_together_and_tell(units, self.store, self.hardware, self.emit)

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Workers:
    """Up to `hardware.workers` processes, started when there is work for them and kept, since imports take seconds.

    Each has a GPU of its own, or its share of the cores. A unit on ranks has all the GPUs: such units go one at a time.
    """

    def __init__(self, config_file: Path, logs: Path, hardware: HardwareSettings, emit: Emit):
        self.command = [sys.executable, "-m", "morlaif.launch.worker", str(config_file), str(logs)]
        self.logs, self.hardware, self.emit = logs, hardware, emit
        self.events: queue.SimpleQueue[tuple[_Worker, str]] = queue.SimpleQueue()
        self.workers: list[_Worker] = []

    def can_start(self, unit: Unit) -> bool:
        ranks = self.hardware.ranks
        if unit.on_ranks(ranks) and any(w.unit and w.unit.on_ranks(ranks) for w in self.workers):
            return False
        return len(self.workers) < self.hardware.workers or any(worker.unit is None for worker in self.workers)

    def start(self, units: Sequence[Unit]) -> None:
        worker = next((worker for worker in self.workers if worker.unit is None), None)
        if worker is None:
            slot = min(set(range(len(self.workers) + 1)) - {worker.slot for worker in self.workers})
            own = slot_environment(self.hardware, slot)
            worker = _Worker(self.command, slot, own, self.logs / f"worker-{slot}.log", self.events)
            self.workers.append(worker)
        worker.start(units)

    def wait(self) -> None:
        worker, line = self.events.get()
        if not line:  # its output ended: the process is gone
            self.workers.remove(worker)
            if worker.process.wait() == -signal.SIGTERM and worker.left:  # the whole run was meant
                say_ended(f"a worker process, at {worker.left[0]}, was ended by SIGTERM")
                raise Ended(signal.SIGTERM)
            epitaph = worker.epitaph()
            for name in worker.left:
                self.emit({"kind": "failed", "unit": name, **epitaph})
            return
        event = json.loads(line)
        if event["kind"] in ("done", "failed"):
            worker.left.remove(event["unit"])
            worker.unit = worker.unit if worker.left else None
        self.emit(event)

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers = []


class _Worker:
    def __init__(
        self, command: list[str], slot: int, environment: dict[str, str], log: Path,
        events: queue.SimpleQueue[tuple[_Worker, str]],
    ):  # fmt: skip
        self.unit: Unit | None = None  # at work, the first of those that are built together
        self.left: list[str] = []  # units that have not ended
        self.slot, self.log = slot, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environment}, start_new_session=True, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.SimpleQueue[tuple[_Worker, str]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self, line))
        events.put((self, ""))

    def start(self, units: Sequence[Unit]) -> None:
        assert self.process.stdin is not None
        self.unit, self.left = units[0], [unit.name for unit in units]
        with contextlib.suppress(BrokenPipeError):  # its end is on its way through `events`
            self.process.stdin.write(" ".join(self.left) + "\n")
            self.process.stdin.flush()

    def epitaph(self) -> dict[str, Any]:
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        written = self.log.read_text(errors="replace").strip() if self.log.is_file() else ""
        last = f": {last_words(written)}" if written else ""
        return {"error": f"the worker process {how}{hint}{last}", "user_error": False, "traceback": written}

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def last_words(written: str) -> str:
    """The line that says why a process ended: what its last traceback was of, else its last line."""
    _, raised, after = written.rpartition("Traceback (most recent call last):\n")
    lines = after.splitlines()
    return next((line for line in lines if raised and line and not line[0].isspace()), lines[-1])
