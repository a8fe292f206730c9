"""The page of a comparison: one HTML file that draws its charts itself and asks the network for nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from morlaif.data.records import Message
from morlaif.evaluation.results import as_json
from morlaif.report import endings
from morlaif.report.comparison import figures, fronts, kept, more_figures, paper, standings, tables
from morlaif.report.comparison.charts import Chart
from morlaif.report.comparison.data import ComparedRun, ComparedRuns
from morlaif.report.comparison.labels import heading, is_seed, shown
from morlaif.report.comparison.pm_size import pm_size
from morlaif.report.labels import warnings as label_warnings
from morlaif.report.page import environment
from morlaif.report.tables import percent


@dataclass(frozen=True)
class Sample:
    """One prompt, and what each arm's first seed answered."""

    messages: Sequence[Message]
    answers: Sequence[tuple[str, str]]  # label of the arm, text


_JOBS = re.compile(r"<!--jobs-->.*?<!--/jobs-->", re.DOTALL)
_SECTIONS: Sequence[tuple[str, str, tuple[Callable[[ComparedRuns], Any], ...]]] = (
    (
        "training",
        "Training",
        (
            more_figures.curves,
            more_figures.win_against_kl,
            kept.gold_and_proxy,
            kept.past_the_peak,
            more_figures.principle_curves,
            more_figures.weight_curves,
        ),
    ),
    ("policies", "Policies", (figures.win_rates, figures.win_matrix, more_figures.strengths, figures.human_win_rates)),
    ("fronts", "Fronts", (fronts.mean_fronts, fronts.hypervolumes, fronts.relative)),
    ("models", "Preference models", (figures.objective_accuracy, figures.principle_accuracy, pm_size)),
    ("principles", "Principles", (more_figures.changes, more_figures.pareto, figures.ablation, figures.correlations)),
)


def sections(data: ComparedRuns) -> list[tuple[str, str, list[Chart]]]:
    """Identifier, name and charts of each section that has any."""
    made = []
    for id_, name, makers in _SECTIONS:
        found = [make(data) for make in makers]
        charts = [chart for one in found for chart in (one if isinstance(one, list) else [one])]
        charts = [chart for chart in charts if chart is not None and chart.table()[1]]
        if charts or id_ == "policies":
            made.append((id_, name, charts))
    return made


def chart_json(chart: Chart) -> dict[str, Any]:
    heads, rows = chart.table()
    return rounded({**chart.as_dict(), "table": {"heads": heads, "rows": rows}})


def render(
    data: ComparedRuns,
    made: Sequence[tuple[str, str, list[Chart]]],
    seconds: Mapping[str, float],
    samples: Sequence[Sample] = (),
) -> str:
    """The page; its list of jobs is left open for `add_jobs`."""
    home = resources.files("morlaif.report")
    css = home.joinpath("page.css").read_text("utf-8") + home.joinpath("comparison/page.css").read_text("utf-8")
    charts = [chart for *_, charts in made for chart in charts]
    run_heads, run_rows = tables.runs_table(data)
    quality_heads, quality_rows = tables.quality_table(data)
    budget_heads, budget_rows, budget_note = tables.budget_table(data, dict(seconds))
    found = data.aggregate
    board_heads, board_rows = standings.leaderboard(found, standings.marked)
    rate_heads, rate_rows = standings.rates_table(found)
    share_heads, share_rows = standings.shares_table(found)
    tradeoff_heads, tradeoff_rows = tables.tradeoff_table(data)
    names = {chart.name for chart in charts}
    return (
        environment()
        .get_template("comparison/page.html.j2")
        .render(
            title=title(data), lede=lede(data), css=css, sections=made,
            js=home.joinpath("comparison/page.js").read_text("utf-8"),
            charts=[chart_json(chart) for chart in charts],
            run_heads=run_heads, run_rows=run_rows, differ_note=_differ_note(data),
            quality_heads=quality_heads, quality_rows=quality_rows,
            budget_heads=budget_heads, budget_rows=budget_rows, budget_note=budget_note,
            board_heads=board_heads, board_rows=board_rows, board_note=standings.seeds_note(found),
            rate_heads=rate_heads, rate_rows=rate_rows, share_heads=share_heads, share_rows=share_rows,
            samples=samples,
            tradeoff_heads=tradeoff_heads, tradeoff_rows=tradeoff_rows,
            human="human_win_rates" in names, source=paper.SOURCE,
            warnings=list(dict.fromkeys(line for run in data.runs for line in _warnings(run))),
            no_matrix="" if "win_matrix" in names else data.judged.note,
        )
    )  # fmt: skip


def _warnings(run: ComparedRun) -> list[str]:
    least = float(run.config.get("model.min_ended", endings.MIN_ENDED))
    few = endings.warnings(run.details, run.curves, least)
    return [*label_warnings(run.details), *(f"{run.name}: {line}" for line in few)]


def add_jobs(html: str, jobs: Sequence[Mapping[str, Any]], command: str) -> str:
    """The stored page with what became of each job: `{run, overrides, status, seconds, why, link}`."""
    jobs = sorted(({"number": k, **job} for k, job in enumerate(jobs, 1)), key=lambda job: job["status"] != "succeeded")
    counts = Counter(job["status"] for job in jobs)
    errors: dict[str, list[str]] = {}
    for job in jobs:
        if job["why"]:
            errors.setdefault(job["why"], []).append(str(job["number"]))
    failed = counts.total() > counts["succeeded"]
    summary = f"{len(jobs)} jobs: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + "."
    if failed:
        summary += " What failed or did not run has no row above; the same command runs what is missing."
    template = environment().get_template("comparison/jobs.html.j2")
    filled = template.render(jobs=jobs, failed=failed, errors=errors, summary=summary, command=command)
    return _JOBS.sub(lambda _: f"<!--jobs-->{filled}<!--/jobs-->", html, count=1)


def title(data: ComparedRuns) -> str:
    count = len(data.runs)
    if count == 1:
        return "One run, its policies side by side"
    own = [key for key in data.labels.keys if not is_seed(key)]
    by = [key.split(".")[0] if key.endswith((".method", ".kind")) else heading(key) for key in own]
    if not by:
        return f"{count} runs compared" + (" over seeds" if data.labels.keys else "")
    if len(by) > 3:
        return f"{count} runs compared, by {len(by)} settings"
    return f"{count} runs compared by {', '.join(by[:-1]) + ' and ' + by[-1] if len(by) > 1 else by[0]}"


def lede(data: ComparedRuns) -> str:
    """How many arms and seeds there are, and which of them may be the best."""
    names = sorted({str(run.config.get("model.name")).replace("_", "-") for run in data.runs})
    models = f"the {names[0]} model" if len(names) == 1 else ", ".join(names)
    prompts = {run.details.prompts for run in data.runs}
    seeds = max((arm.cell.seeds for arm in data.trained), default=1)
    over = f", {seeds} seeds," if seeds > 1 else ""
    text = f"{len(data.arms)} arms of {models}{over} on {'/'.join(map(str, sorted(prompts)))} held-out prompts."
    return f"{text} {standings.sentence(data.aggregate)}".strip()


def _differ_note(data: ComparedRuns) -> str:
    if len(data.runs) == 1:
        return "There is one run, so nothing differs."
    same = len({key for run in data.runs for key in run.config}) - len(data.labels.keys)
    intervals = f"small figures are {percent(data.confidence, 0)} intervals"
    return f"Only the settings in which the runs differ; {same} others are the same in all. {intervals.capitalize()}."


def rounded(value: Any) -> Any:
    """Floats to six significant digits: a page need not carry more."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def numbers(data: ComparedRuns, made: Sequence[tuple[str, str, list[Chart]]]) -> dict[str, Any]:
    """comparison.json: runs with what differs, policies, who won, and which files hold which figure."""
    return {
        "runs": [
            {
                "name": run.name,
                "differs": {key: shown(run.config.get(key)) for key in data.labels.keys},
                "units": dict(run.units),
                "results": as_json(run.results),
            }
            for run in data.runs
        ],
        "policies": [
            {"key": p.key, "label": p.label, "arm": p.name, "runs": [run.name for run in p.runs]} for p in data.policies
        ],
        "summary": lede(data),
        "judged": as_json(data.judged),
        "aggregate": as_json(data.aggregate),
        "verdicts": standings.verdicts(data.aggregate),
        "leaderboard": dict(zip(("heads", "rows"), standings.leaderboard(data.aggregate), strict=True)),
        "figures": {chart.name: chart.title for *_, charts in made for chart in charts},
    }
