"""Our PPO against TRL 1.12's PPOTrainer: same weights, prompts, batch, epochs and minibatches, step about step.

    benchmarks/ppo/make_trl_env.sh /tmp/trl-1.12
    python benchmarks/ppo/compare.py speed  --trl /tmp/trl-1.12/bin/python [--width 64] [--threads 1] [--steps 7]
    python benchmarks/ppo/compare.py memory --trl /tmp/trl-1.12/bin/python
    python benchmarks/ppo/compare.py parity --trl /tmp/trl-1.12/bin/python

Each side is a process of its own; only one computes at a time, in turn. Ratios are of medians, the first step (warm-up)
left out. `--work FOLDER` keeps the weights, so that a second run need not make them again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import case as cases
from case import Case

HERE = Path(__file__).parent


class Side:
    """A process that takes one step when asked."""

    def __init__(self, name: str, command: list[str], threads: int, verbose: bool) -> None:
        # a thread that waits sleeps: on a machine that others use, processor seconds would count its spinning
        wait = {"OMP_WAIT_POLICY": "PASSIVE"} | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = os.environ | wait
        self.name, self.rows = name, []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1,
            stderr=None if verbose else subprocess.DEVNULL,
        )  # fmt: skip
        self.start = self._read()

    def step(self) -> dict[str, Any]:
        self.process.stdin.write("step\n")
        self.rows.append(self._read())
        return self.rows[-1]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended early; --verbose shows why")
        return json.loads(line)


def trl(args: argparse.Namespace, folder: Path, *more: str) -> Side:
    return Side("trl", [args.trl, str(HERE / "side_trl.py"), str(folder), *more], args.threads, args.verbose)


def ours(args: argparse.Namespace, folder: Path, critic: str, *more: str) -> Side:
    command = [sys.executable, str(HERE / "side_morlaif.py"), str(folder), critic, *more]
    return Side(f"morlaif, critic {critic}", command, args.threads, args.verbose)


def speed(args: argparse.Namespace, folder: Path) -> None:
    sides = [trl(args, folder), ours(args, folder, "separate"), ours(args, folder, "shared")]
    for step in range(args.steps + 1):
        for side in sides:
            row = side.step()
            print(f"  step {step}  {side.name:<26} {row['wall']:.2f} s", file=sys.stderr)
    case = Case.load(folder)
    updates = case.epochs * case.minibatches
    print(f"{args.threads} thread(s), width {args.width}, {case.rollouts} rollouts of at most {case.new_tokens} tokens")
    print(f"{'':<26} {'s a step':>9} {'min-max':>13} {'CPU s':>7} {'tokens':>7} {'updates/s':>10} {'times TRL':>10}")
    for side in sides:
        rows = side.rows[1:]
        wall = [row["wall"] for row in rows]
        median = statistics.median(wall)
        base = statistics.median(row["wall"] for row in sides[0].rows[1:])
        print(
            f"{side.name:<26} {median:>9.3f} {min(wall):>6.2f}-{max(wall):<6.2f} "
            f"{statistics.median(row['cpu'] for row in rows):>7.2f} "
            f"{statistics.mean(row['tokens'] for row in rows):>7.0f} {updates / median:>10.2f} {base / median:>10.2f}"
        )
        if "parts" in rows[0]:
            parts = {name: statistics.median(row["parts"][name] for row in rows) for name in rows[0]["parts"]}
            print("   " + "  ".join(f"{n.removeprefix('seconds/')} {seconds:.3f} s" for n, seconds in parts.items()))
    for side in sides:
        side.end()


def memory(args: argparse.Namespace, folder: Path) -> None:
    sides = []
    for critic in (None, "separate", "adapter", "shared"):
        side = ours(args, folder, critic) if critic else trl(args, folder)
        for _ in range(args.steps):
            row = side.step()
        side.end()
        sides.append((side, row["peak"], row["peak"] - side.start["imported"]))
    print(f"{'MB':<26} {'imports':>8} {'loaded':>8} {'peak':>8} {'of TRL':>7} {'above imports':>14} {'of TRL':>7}")
    for side, peak, above in sides:
        print(
            f"{side.name:<26} {side.start['imported']:>8.0f} {side.start['loaded']:>8.0f} {peak:>8.0f} "
            f"{peak / sides[0][1]:>7.2f} {above:>14.0f} {above / sides[0][2]:>7.2f}"
        )


def parity(args: argparse.Namespace, folder: Path) -> None:
    from replay import report

    theirs, mine = folder / "trl.pt", folder / "morlaif.pt"
    for make in (
        lambda: trl(args, folder, str(theirs)),
        lambda: ours(args, folder, "separate", str(theirs), str(mine)),
    ):
        side = make()
        side.step()
        side.end()
    sys.exit(report(theirs, mine, Case.load(folder)))


def prepare(args: argparse.Namespace, folder: Path) -> None:
    if (folder / "case.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if args.what == "memory":
        cases.gpt2_small(folder, Case(rollouts=16, new_tokens=32, epochs=1, lora=True))
    else:
        cases.toy(folder, args.width, args.vocabulary, Case())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "parity"))
    parser.add_argument("--trl", required=True, help="the interpreter of the environment with TRL 1.12")
    parser.add_argument("--work", type=Path, help="where to keep weights; default: a temporary folder")
    parser.add_argument("--width", type=int, default=64, help="of the toy model")
    parser.add_argument("--vocabulary", type=int, help="more ids than the toy tokenizer's 828")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--verbose", action="store_true", help="show what the two sides print")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        prepare(args, folder)
        {"speed": speed, "memory": memory, "parity": parity}[args.what](args, folder)


if __name__ == "__main__":
    main()
