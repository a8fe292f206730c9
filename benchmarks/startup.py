"""What asking costs: CPU time of `morlaif --help`, `--cfg job`, `dry_run=true` and of a mistake.

    python benchmarks/startup.py                       # this checkout
    python benchmarks/startup.py ../other --times 9    # beside another checkout, in turns, on the same packages

CPU time of the whole process (user and system), which a busy machine changes little; the median of several runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]
COMMANDS = {
    "python -c pass": None,
    "--help": ["--help"],
    "--cfg job": ["--cfg", "job"],
    "dry_run=true": ["dry_run=true"],
    "dry_run=true feedback=server": ["dry_run=true", "feedback=server"],
    "a mistake": ["ppo.stepz=3"],
}
# Code and presets of the checkout, whichever one is installed.
START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
home = sys.argv.pop(1)
sys.path.insert(0, home)
for name, folder in (("morlaif.conf", f"{home}/conf"), ("morlaif.sweeps", f"{home}/sweeps")):
    spec = spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
    sys.modules[name] = module_from_spec(spec)
from morlaif.cli import main
main()
"""


def seconds(checkout: Path, arguments: list[str] | None) -> float:
    """User and system time of one command."""
    own = ["-c", "pass"] if arguments is None else ["-c", START, str(checkout), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, *own], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        used = os.wait4(process.pid, 0)[2]
        process.returncode = 0
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", nargs="?", type=Path, help="another checkout to measure beside this one")
    parser.add_argument("--times", type=int, default=7, help="runs of each command (default 7)")
    arguments = parser.parse_args()
    sides = [HERE] if arguments.other is None else [arguments.other.resolve(), HERE]
    print(f"{'CPU seconds, median of ' + str(arguments.times):<32}" + "".join(f"{side.name:>12}" for side in sides))
    for name, command in COMMANDS.items():
        taken: dict[Path, list[float]] = {side: [] for side in sides}
        for _ in range(arguments.times):
            for side in sides:
                taken[side].append(seconds(side, command))
        print(f"{name:<32}" + "".join(f"{statistics.median(taken[side]):>12.2f}" for side in sides), flush=True)


if __name__ == "__main__":
    main()
