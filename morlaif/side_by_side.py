"""Jobs side by side on one machine: processes that stay, each with one job after another, all on one store.

A job in such a process builds in it (`hardware.workers` 1 for each), so torch is imported once a process. Units that
several jobs need are built by one of them, while the others wait.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from morlaif.compose import Composed, run_job
from morlaif.errors import MachineError
from morlaif.texts import say

Task = Callable[[DictConfig], Any]
EVERY = 30.0  # seconds between two lines, where no job ends


def run_side_by_side(
    jobs: Sequence[Composed],
    count: int,
    config_dir: str | None,
    task: Task,
    logs: Path,
    console: Console,
    labels: Sequence[str],
) -> None:
    """Run `jobs` in `count` processes, in their order; what each process prints goes to `<logs>/<number>.log`.

    `task` and what it needs must be importable, as those of a pool are.

    Raises:
        MachineError: all processes ended before their jobs.
    """
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    asked: Queue[tuple[int, Composed] | None] = context.Queue()
    ended: Queue[tuple[int, float]] = context.Queue()
    for number, job in enumerate(jobs):
        asked.put((number, _alone(job, number)))
    for _ in range(count):
        asked.put(None)
    workers: list[BaseProcess] = [
        context.Process(target=_work, args=(asked, ended, config_dir, task, str(logs / f"{k}.log")))
        for k in range(count)
    ]
    try:
        for worker in workers:
            worker.start()
        _follow(labels, ended, workers, logs, console)
    finally:
        asked.cancel_join_thread()  # what nobody took is no reason to wait
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()


def _alone(job: Composed, number: int) -> Composed:
    """The job as one process builds it. How many build changes no number."""
    with open_dict(job.tree):
        job.tree.hydra.job.num = number
        OmegaConf.update(job.tree, "hardware.workers", 1)
    return job


def _follow(
    labels: Sequence[str], ended: Queue[tuple[int, float]], workers: Sequence[BaseProcess], logs: Path, console: Console
) -> None:
    left, spoke = len(labels), time.monotonic()
    say(console, f"{len(labels)} jobs in {len(workers)} processes, which print to {logs}")
    while left:
        try:
            number, seconds = ended.get(timeout=1.0)
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                raise MachineError(f"the processes of the sweep ended before {left} of its jobs; see {logs}") from None
            if time.monotonic() - spoke > EVERY:
                spoke = time.monotonic()
                say(console, f"{len(labels) - left} of {len(labels)} jobs done")
            continue
        left, spoke = left - 1, time.monotonic()
        say(console, f"{len(labels) - left} of {len(labels)} jobs done, {seconds:.0f} s: {labels[number]}")


def _work(
    asked: Queue[tuple[int, Composed] | None],
    ended: Queue[tuple[int, float]],
    config_dir: str | None,
    task: Task,
    log: str,
) -> None:
    """One process: job after job, each of which leaves its run folder, whatever becomes of it."""
    from morlaif.signals import end_in_order

    end_in_order()
    with open(log, "ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    while (given := asked.get()) is not None:
        number, job = given
        began = time.monotonic()
        run_job(job, config_dir, task)
        ended.put((number, time.monotonic() - began))
