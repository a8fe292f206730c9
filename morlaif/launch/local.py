"""The ranks of one unit on this machine, seen from outside: a process that starts them, and its events."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morlaif.devices import cores
from morlaif.hardware import HardwareSettings


def rank_environment(hardware: HardwareSettings) -> dict[str, str]:
    environment = dict(os.environ)
    if (devices := environment.pop("MORLAIF_ALL_DEVICES", None)) is not None:  # a worker has one of them, ranks all
        environment["CUDA_VISIBLE_DEVICES"] = devices
    environment["OMP_NUM_THREADS"] = str(hardware.threads or max(1, cores() // hardware.processes))
    if hardware.device == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        # glibc keeps freed weights of a few MB in its heap, a quarter of a rank's memory: this gives them back.
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", "262144")
    return environment


class Node:
    """The ranks of one unit on this node; their events come line by line from `events`, then an empty line."""

    def __init__(self, accelerate: Path, arguments: Sequence[str], environment: dict[str, str], log: Path):
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "morlaif.launch.node", str(accelerate), *arguments]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.log = log
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def next(self, timeout: float) -> dict[str, Any] | None:
        """The next event; `{"kind": "end"}` when all is over; None when nothing came in `timeout` seconds."""
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            return None
        if not line:
            return {"kind": "end"}
        try:
            return json.loads(line)
        except json.JSONDecodeError:  # a library that prints
            with self.log.open("a") as log:
                log.write(line)
            return None

    def end(self) -> None:
        """Kill what is left. The ranks are killed by the kernel as their parent ends."""
        self.process.kill()
        self.process.wait()
