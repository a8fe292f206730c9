"""The best of other n: what each objective's choice among so many samples is worth."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from morlaif.evaluation.results import Estimate
from morlaif.online.curves import OWN
from morlaif.report.data import RunData
from morlaif.report.drawing import figure
from morlaif.report.section import Drawing, Panel, Section, Table
from morlaif.report.style import SERIES
from morlaif.report.tables import change_cell, number

# What a choice is measured by, where it is known, and what the page calls it.
MEASURES = {"utility": "hidden utility", "mean": "mean over principles", "lowest": "principle that gains least"}


def best_of_n(run: RunData) -> Section | None:
    """A figure and a table for each arm that is the best of n."""
    if not run.by_n:
        return None
    panels, drawings = [], []
    for arm, found in run.by_n.items():
        name = f"best_of_n_{arm}"
        title = f"{run.label(arm)}: the best of other n"
        drawings.append(Drawing(name, partial(_figure, arm=arm), f"Gain by the number of samples, {title}"))
        note = (
            f"Gain over one sample, expected of the best of so many by each objective: from {found['n']} samples to "
            f"each of {found['prompts']} held-out prompts, over all subsets of them. Principles are in deviations of "
            "SFT’s responses. The KL is an upper bound, log n − (n − 1) / n."
        )
        panels.append(Panel(title, note, _table(run, arm), name))
    return Section("best_of_n", "Best of n", panels, drawings)


def _table(run: RunData, arm: str) -> Table:
    known = _known(run.by_n[arm])
    heads = ["chosen by", "n", "KL, bound", *(MEASURES[key] for key in known)]
    rows = [
        (_name(run, arm, chooser), str(row["n"]), number(row["kl_bound"]), *(_cell(row[key]) for key in known))
        for chooser, curve in run.by_n[arm]["objectives"].items()
        for row in curve
    ]
    return Table(heads, rows)


def _figure(run: RunData, *, arm: str) -> Figure:
    found = run.by_n[arm]
    known = _known(found)
    made, axes = figure(0.7 + 1.5 * len(known), len(known), 1, sharex=True)
    for key, (panel,) in zip(known, axes, strict=True):
        for place, curve in enumerate(found["objectives"].values()):
            values = [_value(row[key]) for row in curve]
            look: dict[str, Any] = {"linewidth": 2.2} if place == 0 else {"linewidth": 1.1, "linestyle": (0, (4, 1.5))}
            panel.plot([row["n"] for row in curve], values, color=SERIES[place % len(SERIES)], **look)
        panel.set_title(MEASURES[key], fontsize=8, loc="left", pad=3)
        panel.set_xscale("log", base=2)
    ticks = [row["n"] for row in found["objectives"][OWN]]
    axes[-1, 0].set_xticks(ticks, [str(n) for n in ticks])
    axes[-1, 0].minorticks_off()
    axes[-1, 0].set_xlabel("n, the samples that are chosen from")
    labels = [_name(run, arm, chooser) for chooser in found["objectives"]]
    made.legend(list(axes[0, 0].lines), labels, loc="outside upper left", ncols=3, fontsize=7)
    return made


def _known(found: Mapping[str, Any]) -> list[str]:
    return [key for key in MEASURES if key in found["objectives"][OWN][0]]


def _name(run: RunData, arm: str, chooser: str) -> str:
    return run.label(arm) if chooser == OWN else chooser.replace("_", "-")


def _value(found: Mapping[str, float] | float) -> float:
    return float(found["value"] if isinstance(found, Mapping) else found)


def _cell(found: Mapping[str, Any] | float) -> str:
    return change_cell(Estimate(**found)) if isinstance(found, Mapping) else number(found, sign=True)
