"""The toy world's PPO before and after a change, three seeds each: true reward, KL and time; learning curves.

    python benchmarks/ppo/toy.py build --seeds 0 1 2                             the units that ppo needs
    python benchmarks/ppo/toy.py run FOLDER/now --seeds 0 1 2 [key=value …]      one result for each seed
    python benchmarks/ppo/toy.py run FOLDER/before --python OTHER/bin/python …   the same by another checkout
    python benchmarks/ppo/toy.py plot docs/ppo-toy.png FOLDER/before FOLDER/now

Time is CPU time of one thread, so that other work on the machine disturbs it little. True reward is the mean of the toy
judge's scores over the principles, on held-out prompts at the end and on the rollouts along the way.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def build(args: argparse.Namespace) -> None:
    for seed in args.seeds:
        command = [
            args.python,
            "-m",
            "morlaif",
            f"seed={seed}",
            "arms.select=[morlaif]",
            "stages=[weigh]",
            *args.overrides,
        ]
        subprocess.run(command, check=True)


def run(args: argparse.Namespace) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for seed in args.seeds:
        result = args.folder / f"{seed}.json"
        command = [args.python, str(HERE / "toy_unit.py"), str(result), f"seed={seed}", *args.overrides]
        subprocess.run(command, check=True, env=environment)
        print(row(f"{args.folder.name}, seed {seed}", json.loads(result.read_text())))


def row(name: str, found: dict) -> str:
    return (
        f"| {name} | {found['sft']:.3f} | {found['true']:.3f} ± {found['standard_error']:.3f} | {found['kl']:.1f} | "
        f"{found['cpu']:.1f} |"
    )


def plot(args: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = ("#777777", "#0072b2", "#d55e00", "#009e73")
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    print("| | SFT | true reward | KL | CPU s |\n|---|--:|--:|--:|--:|")
    for folder, colour in zip(args.folders, colours, strict=False):
        results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        for path, found in zip(sorted(folder.glob("*.json")), results, strict=True):
            print(row(f"{folder.name}, seed {path.stem}", found))
            label = folder.name if found is results[0] else None
            for axes, key in ((left, "true"), (right, "kl")):
                seconds, values = [p["cpu"] for p in found["curve"]], [p[key] for p in found["curve"]]
                axes.plot(seconds, values, color=colour, alpha=0.8, linewidth=1.6, label=label)
        seconds = statistics.median(found["cpu"] for found in results)
        left.axvline(seconds, color=colour, linestyle=":", linewidth=1)
    left.set(
        xlabel="CPU seconds of one thread", ylabel="true reward of the rollouts", title="Toy world, one line a seed"
    )
    right.set(xlabel="CPU seconds of one thread", ylabel="KL to the SFT policy, nats a response", title="KL")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.set_xlim(left=0)
    left.legend(frameon=False, loc="lower right")
    args.png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.png, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, action in (("build", build), ("run", run)):
        command = commands.add_parser(name)
        if name == "run":
            command.add_argument("folder", type=Path)
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        command.add_argument("--python", default=sys.executable)
        command.add_argument("overrides", nargs="*")
        command.set_defaults(action=action)
    command = commands.add_parser("plot")
    command.add_argument("png", type=Path)
    command.add_argument("folders", type=Path, nargs="+")
    command.set_defaults(action=plot)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
