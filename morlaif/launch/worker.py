"""A worker process: builds the units whose names come in on standard input, one a line (or, on one line, several to
build together); events go out as JSON lines.

    python -m morlaif.launch.worker <config.json> <log folder>

What a stage or a library prints goes to `<log folder>/<unit>.log`.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from morlaif.config import Config
from morlaif.launch.launcher import build_on_ranks, build_together_on_ranks
from morlaif.launch.processes import die_with_parent, log_name, redirect_output, take_events
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.units.execute import (
    build_here,
    build_together_here,
    execute_and_tell,
    execute_together_and_tell,
)
from morlaif.units.store import Store


def main(config_file: str, logs: str) -> None:
    die_with_parent()
    # The terminal's Ctrl-C is the parent's to handle: it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    emit = take_events()
    names: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    threading.Thread(target=_read_names, args=(names,), daemon=True).start()
    config = Config.model_validate_json(Path(config_file).read_text())
    run = Path(config_file).parent
    units = plan(config, Contents.of_run(run, config.paths.store)).by_name
    store = Store(config.paths.store)
    while True:
        wanted = [units[name] for name in names.get()]
        redirect_output(Path(logs) / f"{log_name(wanted[0].name)}.log")
        ranked = wanted[0].on_ranks(config.hardware.ranks)
        if len(wanted) > 1:
            together = partial(build_together_on_ranks, run=run) if ranked else build_together_here
            execute_together_and_tell(wanted, store, config.hardware, emit, together)
            continue
        build = partial(build_on_ranks, run=run) if ranked else build_here
        execute_and_tell(wanted[0], store, config.hardware, emit, build)


def _read_names(names: queue.SimpleQueue[list[str]]) -> None:
    for line in sys.stdin:
        names.put(line.split())
    os._exit(0)  # the parent closed the pipe or died: whatever is half-built is thrown away by the next build


if __name__ == "__main__":
    main(*sys.argv[1:])
