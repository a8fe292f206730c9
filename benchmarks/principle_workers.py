"""Preference models of four principles, one after another and in two workers: seconds of the stage `pm`, interleaved.

    python benchmarks/principle_workers.py
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = [
    "experiment=quickstart", "arms=[multi]", "principles.count=4", "pm.joint=1", "respond=pairs", "data.sft=300",
    "sft.max_steps=30", "data.train=200", "data.eval=40",
]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start(folder, "stages=[sft,feedback]", "hardware.workers=2")
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(2):
            for workers in seconds:
                shutil.rmtree(folder / "store" / "pm", ignore_errors=True)
                began = time.monotonic()
                start(folder, "stages=[pm]", f"hardware.workers={workers}")
                seconds[workers].append(time.monotonic() - began)
        one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
        print(f"1 worker {one:.1f} s, 2 workers {two:.1f} s: {one / two:.2f} times as fast")
        print({workers: [round(value, 1) for value in values] for workers, values in seconds.items()})


def start(folder: Path, *overrides: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "morlaif", *RUN, *overrides], cwd=folder, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


if __name__ == "__main__":
    main()
