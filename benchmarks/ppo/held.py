"""A principle held at a level in a PPO run of the toy world, beside a run that holds nothing: a picture, and numbers.

    python benchmarks/ppo/held.py docs/held.png HELD_RUN FREE_RUN --held conciseness --wanted detail

Folders of runs with one arm, `morlaif`; docs/scalarizers.md has the two commands.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def rows(run: Path) -> list[dict[str, float]]:
    """Of each step of its policy, as `metrics.jsonl` has them."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["metrics"] for line in lines if line["unit"] == "ppo/morlaif"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("png", type=Path)
    parser.add_argument("runs", type=Path, nargs=2, help="the held one, then the free one")
    parser.add_argument("--held", required=True)
    parser.add_argument("--wanted", required=True)
    parser.add_argument("--bar", type=float, default=0.45, help="what the level should be: half of what is held")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    held, free = map(rows, args.runs)
    level = [row[f"objective/level/{args.held}"] for row in held]
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
    left.plot(range(1, len(level) + 1), level, color="#0072b2")
    left.axhline(args.bar, color="#777777", linewidth=0.8, linestyle=":")
    left.set(title=f"{args.held}: wins over SFT, and the bar")
    middle.plot(range(1, len(level) + 1), [row[f"objective/lambda/{args.held}"] for row in held], color="#0072b2")
    middle.set(title="its multiplier")
    for run, colour, name in ((held, "#0072b2", "held"), (free, "#d55e00", "free")):
        for key, line in ((args.wanted, "-"), (args.held, "--")):
            values = [row[f"score/{key}"] for row in run]
            right.plot(range(1, len(values) + 1), values, line, color=colour, label=f"{key}, {name}")
    right.set(title="scores, in deviations of SFT's")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.set_xlabel("PPO step")
    figure.savefig(args.png, dpi=120)

    last = slice(-5, None)
    print(f"level, last five steps: {np.mean(level[last]):.3f} ({min(level):.3f} at the lowest, bar {args.bar:g})")
    for name, run in (("held", held), ("free", free)):
        means = {key: np.mean([row[f"score/{key}"] for row in run[last]]) for key in (args.wanted, args.held)}
        kl = np.mean([row["kl"] for row in run[last]])
        print(f"{name}: {', '.join(f'{key} {value:.2f}' for key, value in means.items())}, KL {kl:.1f}")


if __name__ == "__main__":
    main()
