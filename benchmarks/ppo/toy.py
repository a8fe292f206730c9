"""The toy world's PPO before and after a change, three seeds each: true reward, KL and time; learning curves.

    python benchmarks/ppo/toy.py build [key=value …] --seeds 0 1 2                 the units that ppo needs
    python benchmarks/ppo/toy.py run FOLDER/now [key=value …] --seeds 0 1 2        one result for each seed
    python benchmarks/ppo/toy.py run FOLDER/before --python OTHER/bin/python …   the same by another checkout
    python benchmarks/ppo/toy.py plot docs/ppo-toy.png FOLDER/before FOLDER/now
    python benchmarks/ppo/toy.py bands docs/ppo-seeds.png FOLDER/before FOLDER/now   mean and interval over seeds

`--vary ppo.seed` varies that alone, so that all seeds learn from the same preference models: `build` then needs one.

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
            f"{args.vary}={seed}",
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
        command = [args.python, str(HERE / "toy_unit.py"), str(result), f"{args.vary}={seed}", *args.overrides]
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


PANELS = {
    "utility": "utility of the rollouts",
    "kl": "KL to SFT, nats a response",
    "explained_variance": "explained variance",
}


def bands(args: argparse.Namespace) -> None:
    """Mean over seeds and its 95 % t-interval, of each step, and of the policies that the runs leave."""
    import matplotlib
    import numpy as np
    from scipy.stats import t

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the first axis, and half the width of its interval."""
        n = len(values)
        return values.mean(0), t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, len(PANELS), figsize=(10.5, 3.3), layout="constrained")
    print("| | seeds | utility gained over SFT | KL, nats | explained variance after a third | at the end |")
    print("|---|--:|--:|--:|--:|--:|")
    for folder, colour in zip(args.folders, ("#0072b2", "#d55e00", "#009e73", "#777777"), strict=False):
        runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
            curves = np.array([[step[key] for step in run["curve"] if key in step] for run in runs])
            if not curves.size:
                continue
            steps = range(1, curves.shape[1] + 1)
            middle, half = interval(curves)
            axes.plot(steps, middle, color=colour, label=folder.name)
            axes.fill_between(steps, middle - half, middle + half, color=colour, alpha=0.2, linewidth=0)
            axes.set(xlabel="PPO step", title=label)
            if key == "explained_variance":
                axes.axhline(0, color="#777777", linewidth=0.8, linestyle=":")
                axes.set_ylim(bottom=max(-1, curves.min() - 0.05))
        gains = np.array([statistics.fmean(run["utility_gain"]) for run in runs])
        kl = np.array([run["kl"] for run in runs])
        third = [run["curve"][-(-len(run["curve"]) // 3) - 1].get("explained_variance") for run in runs]
        last = [run["curve"][-1].get("explained_variance") for run in runs]
        shown = [f"{middle:.2f} ± {half:.2f}" for middle, half in (interval(gains), interval(kl))]
        shown += ["–" if None in values else f"{min(values):.2f} to {max(values):.2f}" for values in (third, last)]
        print(f"| {folder.name} | {len(runs)} | {' | '.join(shown)} |")
    panels[0].legend(frameon=False)
    args.png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.png, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, action in (("build", build), ("run", run)):
        command = commands.add_parser(name)
        if name == "run":
            command.add_argument("folder", type=Path)
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        command.add_argument("--vary", default="seed", help="the key that a seed is given to: seed, or ppo.seed")
        command.add_argument("--python", default=sys.executable)
        command.add_argument("overrides", nargs="*")
        command.set_defaults(action=action)
    for name, action in (("plot", plot), ("bands", bands)):
        command = commands.add_parser(name)
        command.add_argument("png", type=Path)
        command.add_argument("folders", type=Path, nargs="+")
        command.set_defaults(action=action)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
