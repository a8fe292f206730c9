"""Which GPUs there are, and who has which: without torch, by the lists that CUDA itself reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout

from morlaif.hardware import HardwareSettings

VISIBLE = "CUDA_VISIBLE_DEVICES"
# What a driver leaves in the file system: NVIDIA's, WSL's, AMD's, a Jetson's.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", "/dev/nvmap")


def cores() -> int:
    """Cores that this process may use: under Slurm or in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where there is no driver."""
    if (visible := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    return [str(i) for i, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU "))]


def device_problems(hardware: HardwareSettings) -> Iterator[str]:
    """What keeps this machine from running on a GPU, without torch. The nodes of a cluster are not looked at."""
    if hardware.device != "cuda" or hardware.nodes > 1:
        return
    advice = "Use hardware=cpu, or start the run on a machine that has one"
    if (visible := os.environ.get(VISIBLE)) is not None and not gpus():
        yield f"hardware.device=cuda: {VISIBLE}='{visible}' hides every GPU. Unset it, or use hardware=cpu"
    elif shutil.which("nvidia-smi") is None and not any(Path(name).exists() for name in _DRIVERS):
        yield f"hardware.device=cuda: this machine has no GPU, or no driver for it. {advice}"
    elif (installed := _torch()).endswith("+cpu"):
        yield f"hardware.device=cuda: torch {installed} is for CPUs alone. Install one with CUDA, or use hardware=cpu"


def compiler_missing(device: str) -> str | None:
    """What torch.compile needs and this machine has not, without torch; None: nothing."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return "torch.compile needs a C++ compiler, and there is no g++ or clang++ (CXX names another)"
    if device == "cuda" and find_spec("triton") is None:
        return "torch.compile needs Triton on a GPU: pip install triton"
    return None


def _torch() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def slot_environment(hardware: HardwareSettings, slot: int) -> dict[str, str]:
    """What gives worker number `slot` its share: a GPU of its own (in turn, where workers are more), or of cores."""
    have = [] if hardware.device == "cpu" else gpus()
    if not have:
        share = max(1, cores() // hardware.workers)
        return {} if hardware.threads or hardware.workers == 1 else {"OMP_NUM_THREADS": str(share)}
    return {VISIBLE: have[slot % len(have)], "MORLAIF_ALL_DEVICES": ",".join(have)}


def own_gpu(launcher: str, hardware: HardwareSettings) -> AbstractContextManager[str | None]:
    """A GPU of its own for a job of a sweep whose Hydra launcher runs jobs side by side on this machine.

    Slurm gives its jobs theirs; jobs one after another need none, and a run on ranks takes all there are.
    """
    if "joblib" not in launcher.lower() or hardware.device == "cpu" or hardware.ranks > 1:
        return nullcontext()
    return one_gpu(Path(tempfile.gettempdir()) / f"morlaif-gpus-{os.getuid()}")


@contextmanager
def one_gpu(folder: Path) -> Iterator[str | None]:
    """Take a GPU that no other job has taken by the locks in `folder`, waiting where all are taken.

    Yields its name, None where there are no GPUs.
    """
    have = gpus()
    if not have:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(VISIBLE)
    with ExitStack() as held:
        name = _take(have, folder, held)
        os.environ[VISIBLE] = name
        try:
            yield name
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def _take(names: list[str], folder: Path, held: ExitStack) -> str:
    while True:
        for wait in (0.0, 1.0):
            for name in names:
                try:
                    held.enter_context(FileLock(folder / f"{name}.lock", is_singleton=False).acquire(timeout=wait))
                except Timeout:
                    continue
                return name


BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # of /proc/cpuinfo: Intel and AMD, Intel, ARM
SLOWER = 6  # times as long as float32 without them; benchmarks/bfloat16.py measures it


def processor_lacks_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bfloat16 is emulated on this machine's processor; False where that is unknown."""
    try:
        text = cpuinfo.read_text("utf-8", "replace")
    except OSError:
        return False
    flags = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and not set(flags[2].split()) & set(BFLOAT16_FLAGS)
