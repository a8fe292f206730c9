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
COMMANDS: dict[str, tuple[list[str] | None, int]] = {  # arguments, and the exit code that is right
    "python -c pass": (None, 0),
    "--help": (["--help"], 0),
    "--cfg job": (["--cfg", "job"], 0),
    "dry_run=true": (["dry_run=true"], 0),
    "a mistake": (["ppo.steps=x"], 2),
}
# Code and presets of the checkout, whichever one is installed.
START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
home = sys.argv.pop(1)
sys.path.insert(0, home)
import morlaif
for name, folder in (("morlaif.conf", f"{home}/conf"), ("morlaif.sweeps", f"{home}/sweeps")):
    spec = spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    setattr(morlaif, name.partition(".")[2], sys.modules[name])
from morlaif.cli import main
main()
"""


def seconds(checkout: Path, arguments: list[str] | None, code: int) -> float:
    """User and system time of one command, which must exit with `code`."""
    own = ["-c", "pass"] if arguments is None else ["-c", START, str(checkout), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, *own], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        sys.exit(f"{checkout}: {arguments} exits with {process.returncode}, not {code}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", nargs="?", type=Path, help="another checkout to measure beside this one")
    parser.add_argument("--times", type=int, default=7, help="runs of each command (default 7)")
    arguments = parser.parse_args()
    sides = [HERE] if arguments.other is None else [arguments.other.resolve(), HERE]
    print(f"{'CPU seconds, median of ' + str(arguments.times):<32}" + "".join(f"{side.name:>12}" for side in sides))
    for name, (command, code) in COMMANDS.items():
        taken: dict[Path, list[float]] = {side: [] for side in sides}
        for _ in range(arguments.times):
            for side in sides:
                taken[side].append(seconds(side, command, code))
        print(f"{name:<32}" + "".join(f"{statistics.median(taken[side]):>12.2f}" for side in sides), flush=True)


if __name__ == "__main__":
    main()
