"""What every process that another one starts has in common."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from morlaif.texts import file_name

# What a launcher above this run (torchrun, accelerate, mpirun) may have set: a run would look for its group.
FOREIGN = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
FOREIGN_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "OMPI_", "PMI_", "PMIX_")


def forget_launchers() -> None:
    """Take the traces of a launcher above this run out of the environment of this process and of those it starts."""
    for name in [name for name in os.environ if name in FOREIGN or name.startswith(FOREIGN_PREFIXES)]:
        del os.environ[name]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def die_with_parent() -> None:
    """Be killed by the kernel when the parent ends, however it ends; a rank alone would hold its GPU for ever."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended meanwhile
            os._exit(1)


def take_events() -> Callable[[dict[str, Any]], None]:
    """A writer of JSON lines to what is now standard output; call it before `redirect_output`."""
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    return lambda event: print(json.dumps(event), file=stream, flush=True)


def redirect_output(log: Path) -> None:
    """What this process, or a library of it, prints from now on goes to the end of `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def log_name(unit: str) -> str:
    return file_name(unit)
