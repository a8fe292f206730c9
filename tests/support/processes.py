"""Run a function of a test file in processes of its own: several ranks that talk over gloo, or one that gets killed.

The processes are forked from a server that has imported the libraries once and done nothing else (no threads, no
process group), so that a start takes milliseconds; the test process never makes a group itself.
"""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing.context
import os
import pickle
import sys
import time
import traceback
import unittest.mock
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read when libraries are imported
PRELOAD = [
    "torch", "torch.distributed", "torch._dynamo", "transformers", "peft", "accelerate", "deepspeed", "datasets", "trl",
    "deepspeed.runtime.zero.muon.muon_optimizer", "openai", "pytest", "scipy.optimize", "scipy.stats",
    "hydra.compose", "morlaif.compose", "morlaif.config", "morlaif.pipeline.run", "morlaif.rl.engine_deepspeed",
    "morlaif.feedback.sources.openai", "morlaif.models.finetune", "morlaif.preference.separate",
    *(f"morlaif.stages.work.{stage}" for stage in ("data", "evaluate", "feedback", "pm", "ppo", "report", "respond")),
    "quick_server",
]  # fmt: skip


def context() -> multiprocessing.context.ForkServerContext:
    """Whose processes are forked from the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    here = {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))}
    with unittest.mock.patch.dict(os.environ, QUIET | here):  # in the server alone; it passes over what it cannot find
        forkserver.ensure_running()
    return context


def run(function: Callable[..., Any], *args: Any, folder: Path, ranks: int = 1, timeout: float = 60) -> list[Any]:
    """What `function(*args)` returns on each of `ranks` processes.

    Its module is loaded from its file, so it must need no fixtures. An exception is raised here with the traceback of
    its process; a process that died, `Died`; one that is late, TimeoutError. All are gone afterwards.
    """
    place = (sys.modules[function.__module__].__file__, function.__qualname__)
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        context().Process(target=_child, args=(place, args, str(folder), rank, ranks), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + timeout
    try:
        while any(process.is_alive() for process in processes):
            if any(process.exitcode not in (None, 0) for process in processes):  # the others would wait for it
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {timeout} s")
            time.sleep(0.01)
    finally:
        for process in processes:
            process.kill()
            process.join()
    outcomes = {}
    for rank in range(ranks):
        path = folder / f"outcome-{rank}"
        if path.exists():
            outcomes[rank] = pickle.loads(path.read_bytes())
    failures = [f"rank {rank}:\n{value}" for rank, (done, value) in outcomes.items() if not done]
    if failures:
        raise AssertionError("\n".join(failures))
    if len(outcomes) < ranks:
        raise Died(next(process.exitcode for process in processes if process.exitcode != 0))
    return [outcomes[rank][1] for rank in range(ranks)]


class Died(Exception):
    """A process ended by a signal (-number) or with an exit code; `args[0]` says which."""


def _child(place: tuple[str, str], args: tuple, folder: str, rank: int, ranks: int) -> None:
    gc.freeze()  # else each collection reads, and copies, a million objects of imported libraries
    log = os.open(f"{folder}/output-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    torch.set_num_threads(1)
    if ranks > 1:
        from datetime import timedelta

        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}

        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
        )
    try:
        outcome = (True, getattr(_load(place[0]), place[1])(*args))
    except BaseException:
        outcome = (False, traceback.format_exc())
    partial = Path(folder, f"outcome-{rank}.partial")
    partial.write_bytes(pickle.dumps(outcome))
    partial.rename(partial.with_suffix(""))
    if ranks > 1 and outcome[0]:
        torch.distributed.destroy_process_group()
    os._exit(0 if outcome[0] else 1)


def _load(file: str) -> Any:
    sys.path.insert(0, str(Path(__file__).parent))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
