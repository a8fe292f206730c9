"""A ready workspace that compares the runs of a sweep: `python -m morlaif.tracking.workspace --entity me`.

Needs wandb-workspaces (`pip install 'morlaif[wandb]'`) and a login. `--print` shows what would be saved, offline.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

POLICY, OTHER = "morlaif", "rlaif"  # arms of the usual run
RATES = (
    f"win_rate.{POLICY}_vs_sft.value",
    f"win_rate.{POLICY}_vs_{OTHER}.value",
    f"objective_accuracy.{POLICY}.human.value",
)
COLUMNS = (("config", "scalarizer.name"), ("config", "seed"), *(("summary", name) for name in (*RATES, "kl")))
FIGURES = ("win_rates", "changes", "objective_accuracy", "pm_accuracy", "correlations", "training")
UPDATES = {
    "approx_kl_k3": "KL within a step", "clip_fraction": "clipped tokens", "ratio_max": "largest ratio",
    "entropy": "entropy", "grad_norm": "gradient norm", "explained_variance": "explained variance",
    "value_clip_fraction": "clipped values",
}  # fmt: skip
PARTS = {"decides": "decides", "variance_share": "share of variance", "advantage_cosine": "cosine with the reward"}


def workspace(entity: str, project: str, group: str | None, principles: Sequence[str]) -> Any:
    """Win rates and accuracies by scalarizer, PPO's curves, each principle's score, samples and figures."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def curve(name: str, title: str) -> Any:
        return wr.LinePlot(
            title=title, x=f"ppo/{POLICY}/step", y=[f"ppo/{POLICY}/{name}"], legend_fields=["scalarizer.name"],
        )  # fmt: skip

    def bars(name: str, title: str) -> Any:
        grouped: dict[str, Any] = {
            "groupby": wr.Config("scalarizer.name"),
            "groupby_aggfunc": "mean",
            "groupby_rangefunc": "stderr",
        }
        return wr.BarPlot(title=title, metrics=[name], **grouped)

    def by(kind: str, name: str) -> Any:
        metric = wr.Config(name) if kind == "config" else wr.SummaryMetric(name)
        return wr.ParallelCoordinatesPlotColumn(metric=metric)

    kl, win = wr.SummaryMetric("kl"), wr.SummaryMetric(RATES[0])
    sections = [
        ws.Section(
            name="Scalarizers", is_open=True,
            panels=[
                bars(RATES[0], "win rate over SFT"), bars(RATES[1], "win rate over the single PM"),
                bars(RATES[2], "objective accuracy, human labels"),
                wr.ScatterPlot(title="what the win rate cost", x=kl, y=win),
                wr.ParallelCoordinatesPlot(columns=[by(kind, name) for kind, name in COLUMNS]),
            ],
        ),
        ws.Section(
            name="PPO", is_open=True,
            panels=[curve("reward", "objective"), curve("kl", "KL to SFT"), curve("length", "tokens a response")],
        ),
        ws.Section(name="PPO's updates", panels=[curve(f"updates/{name}", title) for name, title in UPDATES.items()]),
        ws.Section(
            name="What the reward is made of", is_open=bool(principles),
            panels=[
                curve(f"{kind}/{name}", f"{name.replace('_', ' ')}: {title}")
                for name in principles for kind, title in PARTS.items()
            ],
        ),
        ws.Section(
            name="Principles", is_open=bool(principles),
            panels=[curve(f"score/{name}", name.replace("_", " ")) for name in principles],
        ),
        ws.Section(
            name="Samples and figures",
            panels=[wr.WeavePanelSummaryTable(table_name="samples"), wr.MediaBrowser(
                media_keys=[f"figures/{name}" for name in FIGURES]
            )],
        ),
    ]  # fmt: skip
    filters = [ws.Metric("JobType") == "run", *([ws.Metric("Group") == group] if group else [])]
    return ws.Workspace(
        entity=entity, project=project, name=f"morlaif: {group or 'scalarizers'}", sections=sections,
        runset_settings=ws.RunsetSettings(filters=filters, groupby=[ws.Config("scalarizer.name")]),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="morlaif.tracking.workspace", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", default="morlaif", help="as tracking.project")
    parser.add_argument("--group", help="one sweep, as printed by it: scalarizers-1a2b3c4d; default: all runs")
    parser.add_argument("--principles", nargs="*", default=[], help="names, for a section of their scores in PPO")
    parser.add_argument("--print", action="store_true", dest="show", help="show the workspace, save nothing")
    given = parser.parse_args(arguments)
    try:
        made = workspace(given.entity, given.project, given.group, given.principles)
    except ImportError:
        print("morlaif: wandb-workspaces is not installed: pip install 'morlaif[wandb]'", file=sys.stderr)
        return 2
    if given.show:
        print(json.dumps(made._to_model().spec.model_dump(mode="json", by_alias=True), indent=1))
        return 0
    made.save()
    print(made.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
