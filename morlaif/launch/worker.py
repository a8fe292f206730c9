"""A worker process: builds the units whose names come in on standard input, one a line; events go out as JSON lines.

    python -m morlaif.launch.worker <config.json> <log folder>

What a stage or a library prints goes to `<log folder>/<unit>.log`.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any

from morlaif.config import Config
from morlaif.pipeline.execute import execute_and_tell
from morlaif.pipeline.plan import plan
from morlaif.pipeline.store import Store


def main(config_file: str, logs: str) -> None:
    # The terminal's Ctrl-C is the parent's to handle: it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    names: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_names, args=(names,), daemon=True).start()
    config = Config.model_validate_json(Path(config_file).read_text())
    units = plan(config).by_name
    store = Store(config.paths.store)
    while (name := names.get()) is not None:
        _redirect_output(Path(logs) / f"{name.replace('/', '-')}.log")
        execute_and_tell(units[name], store, config.hardware, lambda event: _write(events, event))


def _read_names(names: queue.SimpleQueue[str | None]) -> None:
    for line in sys.stdin:
        names.put(line.strip())
    os._exit(0)  # the parent closed the pipe or died: whatever is half-built is thrown away by the next build


def _redirect_output(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _write(events: IO[str], event: dict[str, Any]) -> None:
    events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
