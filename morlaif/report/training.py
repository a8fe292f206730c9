"""The figures of training: the curve, principles, updates, what was learnt from, what the reward is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from morlaif.report.data import RunData, words
from morlaif.report.drawing import figure, heatmap, multiples, names_above
from morlaif.report.steps import DISTRIBUTIONS, PARTS, mean_cosines, quantiles
from morlaif.report.style import PALETTE

POINTS = 300  # of a line, at most: a panel is 100 dots wide
# Figures of the single updates, then of the steps, and what they are called.
UPDATES = {
    "approx_kl_k3": "KL within a step", "clip_fraction": "clipped tokens", "ratio_max": "largest ratio",
    "entropy": "entropy", "grad_norm": "gradient norm", "critic_grad_norm": "critic\u2019s gradient norm",
    "explained_variance": "explained variance", "value_clip_fraction": "clipped values",
}  # fmt: skip
STEPS = {"ended": "share that ends", "stopped": "ended by a stop text", "sampler/kl_k3": "KL of the sampler"}
FLOOR = {"explained_variance": -1.0}  # below it the size says nothing more, and would flatten the rest


def overview(run: RunData) -> Figure:
    panels = [("reward", "objective"), ("kl", "KL to SFT"), ("length", "tokens")]
    made, axes = figure(4.2, len(panels), 1, sharex=True)
    for row, (key, label) in enumerate(panels):
        _curves(axes[row, 0], run, key)
        axes[row, 0].set_ylabel(label)
        axes[row, 0].yaxis.set_major_locator(MaxNLocator(4))
    axes[-1, 0].set_xlabel(f"{run.trained_by} step")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    made.align_ylabels()
    arm_legend(made, run)
    return made


def principles(run: RunData) -> Figure | None:
    """Small multiples: each principle's normalised score during PPO, one scale for all."""
    names = run.rewarded
    if not names:
        return None
    made, panels = multiples([words(name) for name in names], sharey=True)
    for name, panel in zip(names, panels, strict=True):
        panel.axhline(0, color=PALETTE.muted, linewidth=0.8, linestyle=(0, (3, 3)))
        _curves(panel, run, f"score/{name}")
    return made


def updates(run: RunData) -> Figure | None:
    """Small multiples: what each update showed, between the steps that it lies between; then figures of the steps."""
    rows = [row for arm in run.drawn for row in run.diagnostics[arm]]
    shown = [key for key in UPDATES if any(f"updates/{key}" in row for row in rows)]
    if not shown:
        return None
    curves = [row for arm in run.drawn for row in run.curves[arm]]
    steps = [key for key in STEPS if any(row.get(key) for row in curves)]  # what never was is no panel
    made, panels = multiples([UPDATES[key] for key in shown] + [STEPS[key] for key in steps])
    for key in shown:
        panel = next(panels)
        for index, arm in enumerate(run.drawn):
            points = thinned([p for row in run.diagnostics[arm] for p in _points(row, key)])
            if points:
                panel.plot(*zip(*points, strict=True), color=PALETTE.of(index), linestyle=dashes(index), linewidth=1.1)
    for key in steps:
        _curves(panel := next(panels), run, key)
        panel.tick_params(labelsize=7)
    arm_legend(made, run)
    return made


def distributions(run: RunData) -> Figure | None:
    """Of the policy: median, half and four fifths of the rewards and advantages of each step."""
    rows = thinned(run.diagnostics[run.policy])
    shown = [key for key in DISTRIBUTIONS if rows and key in rows[0]]
    if not shown:
        return None
    made, panels = multiples([DISTRIBUTIONS[key] for key in shown], columns=2)
    made.set_figheight(2.1)
    for key, panel in zip(shown, panels, strict=True):
        steps = [row["step"] for row in rows]
        low, early, middle, late, high = zip(
            *(quantiles(row[key], (0.1, 0.25, 0.5, 0.75, 0.9)) for row in rows), strict=True
        )
        panel.fill_between(steps, low, high, color=PALETTE.blue, alpha=0.15, linewidth=0)
        panel.fill_between(steps, early, late, color=PALETTE.blue, alpha=0.25, linewidth=0)
        panel.plot(steps, middle, color=PALETTE.blue)
    return made


def parts_of_reward(run: RunData) -> Figure | None:
    """Small multiples of the policy: which principle decides, whose variance the reward has, and what it works for."""
    rows = run.curves[run.policy]
    kinds = [kind for kind in PARTS if any(key.startswith(f"{kind}/") for row in rows for key in row)]
    names = [name for name in run.rewarded if any(f"{kind}/{name}" in row for kind in kinds for row in rows)]
    if len(names) < 2:
        return None
    made, panels = multiples([words(name) for name in names], sharey=True)
    looks: dict[str, dict[str, Any]] = {
        "decides": {"color": PALETTE.blue},
        "variance_share": {"color": PALETTE.orange, "linestyle": (0, (4, 1.5))},
        "advantage_cosine": {"color": PALETTE.muted, "linestyle": (0, (1.5, 1.2))},
    }
    for name, panel in zip(names, panels, strict=True):
        panel.axhline(0, color=PALETTE.muted, linewidth=0.8, linestyle=(0, (3, 3)))
        for kind in kinds:
            points = thinned([(row["step"], row[key]) for row in rows if (key := f"{kind}/{name}") in row])
            if points:
                panel.plot(*zip(*points, strict=True), linewidth=1.2, **looks[kind])
    handles = [Line2D([], [], **looks[kind]) for kind in kinds]
    names_above(made, handles, [PARTS[kind] for kind in kinds])
    return made


def kept_policies(run: RunData) -> Figure | None:
    """What policies kept on the way gained, in their objective and in what it stands for, over √KL: hill-climbing on a
    proxy goes with the root of the KL (Gao et al., 2210.10760)."""
    kinds = [("proxy", "objective, gained"), ("gold", "hidden utility, gained"), ("win_rate", "win rate over SFT")]
    every = [one for own in run.details.kept.values() for one in own]
    shown = [(key, label) for key, label in kinds if any(getattr(one, key) is not None for one in every)]
    if not every:
        return None
    made, axes = figure(2.1 * len(shown), len(shown), 1, sharex=True)
    for row, (key, label) in enumerate(shown):
        panel, start = axes[row, 0], 0.5 if key == "win_rate" else 0.0
        panel.axhline(start, color=PALETTE.muted, linewidth=0.8, linestyle=(0, (3, 3)))
        for arm, own in run.details.kept.items():
            if arm not in run.drawn:
                continue
            index = run.drawn.index(arm)
            found = [(one.kl, getattr(one, key)) for one in own if one.kl is not None and getattr(one, key) is not None]
            points = sorted((max(kl, 0.0) ** 0.5, part.value, part.low, part.high) for kl, part in found)
            points = [point for point in points if None not in point]
            if not points:
                continue
            x, y, low, high = zip(*[(0.0, start, start, start), *points], strict=True)
            panel.plot(x, y, color=PALETTE.of(index), linestyle=dashes(index), marker="o", markersize=3)
            panel.fill_between(x, low, high, color=PALETTE.of(index), alpha=0.12, linewidth=0)
        panel.set_ylabel(label)
        panel.yaxis.set_major_locator(MaxNLocator(4))
    axes[-1, 0].set_xlabel("√KL to SFT")
    made.align_ylabels()
    arm_legend(made, run)
    return made


def advantage_cosines(run: RunData) -> Figure | None:
    """Each two principles of the policy. Lower triangle: cosines of advantages; upper one: of gradients, where kept."""
    names, table = mean_cosines(run)
    gradients = mean_cosines(run, "gradient")[1]
    if not names:
        return None

    def cell(i: int, j: int) -> tuple[str, float] | None:
        value = table[i][j] if i > j else gradients[i][j] if gradients else None
        if value is None:
            return None
        text = f"{abs(value):.2f}".removeprefix("0") if len(names) > 8 else f"{abs(value):.2f}"
        return ("\u2212" if round(value, 2) < 0 else "") + text, value

    return heatmap(names, cell)


def _points(row: Mapping[str, Any], key: str) -> Iterator[tuple[float, float]]:
    """Each update of a step, on the axis of the steps."""
    values = row.get(f"updates/{key}", ())
    for place, value in enumerate(values):
        if value is not None:
            yield row["step"] - 1 + (place + 1) / len(values), max(value, FLOOR.get(key, -np.inf))


def thinned(points: Sequence[Any]) -> list[Any]:
    """Every n-th of them, the last among them."""
    every = -(-len(points) // POINTS)
    return list(points[::-1][::every])[::-1] if every > 1 else list(points)


def _curves(axes: Axes, run: RunData, key: str) -> None:
    for index, arm in enumerate(run.drawn):
        points = [(row["step"], row[key]) for row in run.curves[arm] if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=PALETTE.of(index), linestyle=dashes(index))
    axes.tick_params(axis="y", labelcolor=PALETTE.muted, labelsize=8)


def dashes(arm: int) -> Any:
    return "-" if arm == 0 else (0, (4, 1.5))


def arm_legend(made: Figure, run: RunData) -> None:
    if len(run.drawn) > 1:
        handles = [Line2D([], [], color=PALETTE.of(i), linestyle=dashes(i)) for i in range(len(run.drawn))]
        names_above(made, handles, [run.label(arm) for arm in run.drawn])
