"""Preference models of four principles, one after another and in two workers: seconds of the stage `pm`, interleaved.

    python benchmarks/principle_workers.py

Beside them what two cores of this machine give at most: two such runs with one worker each, at the same time.
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
    "experiment=quickstart", "arms.select=[morlaif]", "principles.count=4", "pm.joint=1", "respond=pairs",
    "data.sft=300", "sft.max_steps=30", "data.train=900", "data.eval=40",
]  # fmt: skip
CASES = {"1 worker": (1, 1), "2 workers": (1, 2), "two runs of 1 worker": (2, 1)}  # runs at once, workers of each


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / "a", Path(name) / "b"]
        folders[0].mkdir()
        wait([start(folders[0], "stages=[sft,feedback]", "hardware.workers=2")])
        shutil.copytree(folders[0], folders[1])
        seconds: dict[str, list[float]] = {case: [] for case in CASES}
        for _ in range(2):
            for case, (runs, workers) in CASES.items():
                for folder in folders:
                    shutil.rmtree(folder / "store" / "pm", ignore_errors=True)
                began = time.monotonic()
                wait([start(folder, "stages=[pm]", f"hardware.workers={workers}") for folder in folders[:runs]])
                seconds[case].append(time.monotonic() - began)
    one, two, both = (statistics.median(values) for values in seconds.values())
    for case, values in seconds.items():
        print(f"{case:<22}{statistics.median(values):6.1f} s  {[round(value, 1) for value in values]}")
    gain, most = one / two, 2 * one / both
    print(f"two workers: {gain:.2f} times as fast as one; the cores give at most {most:.2f}: {gain / most:.0%} of it")


def start(folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "morlaif", *RUN, *overrides], cwd=folder, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait(runs: list[subprocess.Popen[bytes]]) -> None:
    codes = [run.wait() for run in runs]
    if any(codes):
        sys.exit("a run failed: see above")


if __name__ == "__main__":
    main()
