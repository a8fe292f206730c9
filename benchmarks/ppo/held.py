"""A principle held at a level in a PPO run of the toy world: a picture, and the numbers.

    python benchmarks/ppo/held.py docs/held.png RUN --held conciseness --wanted detail

The folder of a run with one arm, `morlaif`; docs/scalarizers.md has the command.
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
    parser.add_argument("run", type=Path)
    parser.add_argument("--held", required=True)
    parser.add_argument("--wanted", required=True)
    parser.add_argument("--bar", type=float, default=0.9, help="what the level should be, where 1 is SFT's")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run = rows(args.run)
    steps = range(1, len(run) + 1)
    level, factor = ([row[f"objective/{name}/{args.held}"] for row in run] for name in ("level", "lambda"))
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
    left.plot(steps, level, color="#0072b2")
    left.axhline(args.bar, color="#777777", linewidth=0.8, linestyle=":")
    left.set(title=f"level of {args.held}, and the bar")
    middle.plot(steps, factor, color="#0072b2")
    middle.set(title="its multiplier", ylim=(0, None))
    for key, colour in ((args.wanted, "#d55e00"), (args.held, "#0072b2")):
        right.plot(steps, [row[f"score/{key}"] for row in run], color=colour, label=key)
    right.set(title="scores, in deviations of SFT's")
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.set_xlabel("PPO step")
    figure.savefig(args.png, dpi=120)

    last = run[-5:]
    print(f"level {min(level):.2f} at the lowest, {np.mean(level[-5:]):.2f} over the last five steps; bar {args.bar:g}")
    print(f"multiplier {factor[0]:.2f} to {factor[-1]:.2f}; KL of the last five {np.mean([r['kl'] for r in last]):.1f}")
    for key in (args.wanted, args.held):
        print(f"{key}: {run[0][f'score/{key}']:.2f} to {np.mean([row[f'score/{key}'] for row in last]):.2f}")


if __name__ == "__main__":
    main()
