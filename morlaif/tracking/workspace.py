"""A ready workspace that shows the runs of a sweep: `python -m morlaif.tracking.workspace --entity me --sweep FOLDER`.

The sweep's folder says what it varied, which arms it compared and which principles there were. Needs wandb-workspaces
(`pip install 'morlaif[wandb]'`) and a login. `--print` shows what would be saved, offline.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "workspace.json"  # beside a sweep's comparison: what it is made of
SFT = "sft"
CURVES = {
    "reward": "objective", "kl": "KL to SFT", "length": "tokens a response", "ended": "responses that end by themselves"
}  # fmt: skip
UPDATES = {
    "approx_kl_k3": "KL within a step", "clip_fraction": "clipped tokens", "ratio_max": "largest ratio",
    "entropy": "entropy", "grad_norm": "gradient norm", "explained_variance": "explained variance",
    "value_clip_fraction": "clipped values",
}  # fmt: skip
PARTS = {"decides": "decides", "variance_share": "share of variance", "advantage_cosine": "cosine with the reward"}
TABLES = ("leaderboard", "win_rates", "over_seeds", "runs", "claims")
FIGURES = (
    "win_rates", "strengths", "win_against_kl", "curves", "principle_curves", "pareto", "changes", "objective_accuracy",
    "pm_accuracy", "correlations", "training_reward", "training_principles",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What a workspace shows."""

    group: str | None = None  # of runs; None: all of the project
    keys: list[str] = field(default_factory=list)  # of the config, in which the runs differ
    arms: dict[str, str] = field(default_factory=lambda: {"morlaif": "ppo", "rlaif": "ppo"})  # -> the method
    principles: list[str] = field(default_factory=list)

    @property
    def grouped(self) -> list[str]:
        """The keys by which runs are put together: all but seeds, whose mean and deviation are then shown."""
        return [key for key in self.keys if key.rpartition(".")[2] != "seed"]


def read(file: Path) -> Shown:
    """
    Raises:
        OSError, ValueError, TypeError: no file of a workspace.
    """
    return Shown(**json.loads(file.read_text(encoding="utf-8")))


def workspace(entity: str, project: str, shown: Shown) -> Any:
    """The comparison first, then curves of every arm, each principle, updates, samples and figures."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    legend = shown.grouped or None
    groups: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
    if shown.grouped:
        groups["groupby"] = wr.Config(shown.grouped[0])

    def lines(title: str, units: Mapping[str, str], metric: str) -> Iterator[Any]:
        """A chart of `metric` of each unit `<stage>/<name>`; one for each stage, whose steps are the axis."""
        for stage in dict.fromkeys(units.values()):
            names = [f"{stage}/{name}/{metric}" for name, of in units.items() if of == stage]
            yield wr.LinePlot(title=title, x=f"{stage}/step", y=names, legend_fields=legend)

    def bars(name: str, title: str) -> Any:
        return wr.BarPlot(title=title, metrics=[name], **groups)

    arms = list(shown.arms)
    wins = {f"win_rate/{arm}_vs_{SFT}": f"{arm}: win rate over SFT" for arm in arms}
    wins |= {f"win_rate/{arms[0]}_vs_{other}": f"{arms[0]}: win rate over {other}" for other in arms[1:]}
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key)) for key in shown.keys]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(name)) for name in (*wins, "kl")]
    first = wr.SummaryMetric(next(iter(wins), "kl"))
    models = dict.fromkeys(shown.principles, "pm")
    sections = {
        "Comparison": [
            *(bars(name, title) for name, title in wins.items()),
            *(bars(f"accuracy/{arm}", f"{arm}: accuracy of its objective") for arm in arms),
            wr.ScatterPlot(title="what the win rate cost", x=wr.SummaryMetric("kl"), y=first),
            wr.ParallelCoordinatesPlot(columns=columns),
            *(wr.WeavePanelSummaryTable(table_name=name) for name in TABLES),
        ],
        "Training": [plot for name, title in CURVES.items() for plot in lines(title, shown.arms, name)],
        "Principles": [
            plot for name in shown.principles for plot in lines(_words(name), shown.arms, f"score/{name}")
        ],
        "What the reward is made of": [
            plot for name in shown.principles for kind, title in PARTS.items()
            for plot in lines(f"{_words(name)}: {title}", shown.arms, f"{kind}/{name}")
        ],
        "Preference models": [
            plot for name in ("loss", "accuracy") for plot in lines(name, models, name)
        ],
        "Updates": [
            plot for name, title in UPDATES.items() for plot in lines(title, shown.arms, f"updates/{name}")
        ],
        "Samples and figures": [
            wr.WeavePanelSummaryTable(table_name="samples"),
            wr.MediaBrowser(media_keys=[f"figures/{name}" for name in FIGURES]),
        ],
    }  # fmt: skip
    opened = ("Comparison", "Training", "Principles")
    filters = [ws.Config(f"sweeps.{shown.group}") == True] if shown.group else []  # noqa: E712  a filter, no test
    return ws.Workspace(
        entity=entity, project=project, name=f"morlaif: {shown.group or 'all runs'}",
        sections=[ws.Section(name=name, panels=panels, is_open=name in opened)
                  for name, panels in sections.items() if panels],
        runset_settings=ws.RunsetSettings(filters=filters, groupby=[ws.Config(key) for key in shown.grouped]),
    )  # fmt: skip


def _words(name: str) -> str:
    return name.replace("_", " ")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="morlaif.tracking.workspace", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", default="morlaif", help="as tracking.project")
    parser.add_argument("--sweep", type=Path, help=f"folder of a finished sweep, which has {FILE}; default: all runs")
    parser.add_argument("--print", action="store_true", dest="show", help="show the workspace, save nothing")
    given = parser.parse_args(arguments)
    try:
        shown = read(given.sweep / FILE) if given.sweep else Shown()
    except (OSError, ValueError, TypeError) as error:
        print(f"morlaif: --sweep {given.sweep}: no {FILE} of a finished sweep ({error})", file=sys.stderr)
        return 2
    try:
        made = workspace(given.entity, given.project, shown)
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
