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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from morlaif.launch.settings import HardwareSettings
from morlaif.pipeline.execute import execute_and_tell
from morlaif.pipeline.store import Store
from morlaif.pipeline.unit import Unit

# {"kind": "progress"|"waiting"|"done"|"failed", "unit": name, …}
Emit = Callable[[dict[str, Any]], None]


class Backend(Protocol):
    @property
    def free(self) -> bool: ...  # whether `start` may be called

    def start(self, unit: Unit) -> None: ...

    def wait(self) -> None: ...  # until something happened; events go to `emit`

    def close(self) -> None: ...


class InProcess:
    """`start` builds the unit before it returns."""

    free = True

    def __init__(self, store: Store, hardware: HardwareSettings, emit: Emit):
        self.store, self.hardware, self.emit = store, hardware, emit

    def start(self, unit: Unit) -> None:
        execute_and_tell(unit, self.store, self.hardware, self.emit)

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Workers:
    """Up to `hardware.workers` processes, started when there is work for them and kept, since imports take seconds."""

    def __init__(self, config_file: Path, logs: Path, count: int, emit: Emit):
        self.command = [sys.executable, "-m", "morlaif.launch.worker", str(config_file), str(logs)]
        self.logs, self.count, self.emit = logs, count, emit
        self.events: queue.SimpleQueue[tuple[_Worker, str]] = queue.SimpleQueue()
        self.workers: list[_Worker] = []

    @property
    def free(self) -> bool:
        return len(self.workers) < self.count or any(worker.unit is None for worker in self.workers)

    def start(self, unit: Unit) -> None:
        worker = next((worker for worker in self.workers if worker.unit is None), None)
        if worker is None:
            worker = _Worker(self.command, self.logs / f"worker-{len(self.workers)}.log", self.events)
            self.workers.append(worker)
        worker.start(unit)

    def wait(self) -> None:
        worker, line = self.events.get()
        unit = worker.unit
        if not line:  # its output ended: the process is gone
            self.workers.remove(worker)
            if unit is not None:
                self.emit({"kind": "failed", "unit": unit.name, **worker.epitaph()})
            return
        event = json.loads(line)
        if event["kind"] in ("done", "failed"):
            worker.unit = None
        self.emit(event)

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers = []


class _Worker:
    def __init__(self, command: list[str], log: Path, events: queue.SimpleQueue[tuple[_Worker, str]]):
        self.unit: Unit | None = None
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.SimpleQueue[tuple[_Worker, str]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self, line))
        events.put((self, ""))

    def start(self, unit: Unit) -> None:
        assert self.process.stdin is not None
        self.unit = unit
        with contextlib.suppress(BrokenPipeError):  # its end is on its way through `events`
            self.process.stdin.write(unit.name + "\n")
            self.process.stdin.flush()

    def epitaph(self) -> dict[str, Any]:
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        written = self.log.read_text(errors="replace").strip() if self.log.is_file() else ""
        last = f": {written.splitlines()[-1]}" if written else ""
        return {"error": f"the worker process {how}{hint}{last}", "user_error": False, "traceback": written}

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
