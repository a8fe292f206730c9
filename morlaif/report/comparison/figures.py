"""The paper's seven figures, from the data of a comparison. None where its runs have nothing of the kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from morlaif.evaluation.results import CEILING, SFT, Accuracies, Estimate
from morlaif.evaluation.wins import versus
from morlaif.report.analysis import KINDS, measured
from morlaif.report.comparison import paper
from morlaif.report.comparison.charts import (
    Bars,
    Chart,
    Dots,
    Heatmap,
    Line,
    Lines,
    LinesPanel,
    Point,
    Reference,
    Series,
    Shares,
)
from morlaif.report.comparison.data import Arm, ComparedRun, ComparedRuns, Models, Policy, mean_of
from morlaif.report.data import words

CHANCE = 0.5
PLAIN = 7  # the colour of what is no arm's: arms have the colours from 0 on


def principle_accuracy(data: ComparedRuns) -> Chart | None:
    names = [*data.principles, *data.whole]
    sets = data.model_sets

    def accuracy(models: Sequence[Models], name: str) -> Point | None:
        return Point.of(mean_of([_accuracy(own.run, name) for own in models], data.confidence, share=True))

    series = [
        Series(label if len(sets) > 1 else "held-out labels", [accuracy(models, name) for name in names], PLAIN - k % 8)
        for k, (label, models) in enumerate(sets)
    ]
    if len(data.models) == 1 and (true := data.models[0].run.results.pm_truth_accuracy):
        series.append(Series("known truth", [Point.of(true.get(name)) for name in names], PLAIN - 1, hollow=True))
    references = [
        Reference(f"paper, {size}: lowest to highest", [None if name in data.whole else span for name in names])
        for size, span in paper.PRINCIPLES.items()
        if len(names) >= 12
    ]
    return Dots(
        "principle_accuracy", "Accuracy of the preference models by principle",
        "How often each preference model orders a held-out pair as its judge does, with intervals"
        + (" over seeds" if len(data.models) > len(sets) else "") + "."
        + (f" Grey: the range of the paper’s twelve principles ({paper.SOURCE})." if references else ""),
        [data.model_name(name) for name in names], series, "pairs ordered rightly", "percent",
        CHANCE, (None, 1.0), references,
    )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """An objective: what it is called, its accuracies, and the paper's, one of each size of model or one of all."""

    label: str
    found: Accuracies
    published: tuple[float, ...] | None = None


def objective_accuracy(data: ComparedRuns) -> Chart | None:
    rows = [*_trained_objectives(data), *_untrained_objectives(data), *_ceiling(data)]
    if not rows:
        return None
    series = _by_standard(rows)
    references = _published([row.published for row in rows], _models_used(data), "ceiling")
    return Dots(
        "objective_accuracy", "Accuracy of the objectives",
        "How often each scalarized objective, the single preference model and the true principles order a held-out "
        "pair as people do" + (" and as the known truth does." if len(series) > 1 else ".")
        + (f" Grey: the paper’s, on human labels ({paper.SOURCE})." if references else ""),
        [row.label for row in rows], series, "pairs ordered rightly", "percent", CHANCE, (None, 1.0), references,
    )  # fmt: skip


def _trained_objectives(data: ComparedRuns) -> list[_Row]:
    """Those that a policy was trained on."""
    rows = []
    for arm in data.trained:
        found = {
            kind: one for kind in KINDS
            if (one := arm.mean(partial(_objective, kind), data.confidence, share=True)) is not None
        }  # fmt: skip
        if found:
            published = paper.OBJECTIVES.get(arm.policy.objective) if _twelve(arm.policy) else None
            rows.append(_Row(arm.cell.label, found, published))
    return rows


def _objective(kind: str, policy: Policy) -> Estimate | None:
    return (policy.run.results.objective_accuracy.get(policy.name) or {}).get(kind)


def _untrained_objectives(data: ComparedRuns) -> list[_Row]:
    """What the same models would reach under the other scalarizers, where all runs share them."""
    if len(data.models) > 1:
        return []
    trained = {policy.objective for policy in data.aligned if policy.of_principles}
    twelve = len(data.principles) == 12
    return [
        _Row(f"{name.replace('_', '-')}, no policy", found, paper.OBJECTIVES.get(name) if twelve else None)
        for name, found in data.runs[0].details.scalarizer_accuracy.items()
        if name not in trained
    ]


def _ceiling(data: ComparedRuns) -> list[_Row]:
    found = next((run.results.objective_accuracy.get(CEILING) for run in data.runs), None)
    return [_Row("ceiling: true principles", found, (paper.CEILING,))] if found else []


def _by_standard(rows: Sequence[_Row]) -> list[Series]:
    """On human labels and on the known truth, where anything is known of them."""
    made = [
        Series(name, [Point.of(row.found.get(kind)) for row in rows], PLAIN - k, kind == "truth")
        for k, (kind, name) in enumerate(KINDS.items())
    ]
    return [series for series in made if any(series.points)]


def _published(
    values: Sequence[tuple[float, ...] | None], models: set[str], of_one: str, name: str = "paper"
) -> list[Reference]:
    """The paper's values beside ours, None where it has none; `of_one` names those that are of no model's size."""
    spans: list[tuple[float, float] | None] = []
    sizes = ""
    for published in values:
        if published is None:
            spans.append(None)
            continue
        low, high, size = paper.span(published, models)
        spans.append((low, high))
        sizes = sizes or (size if len(published) > 1 else "")
    return [Reference(f"{name}, {sizes or of_one}", spans)] if any(spans) else []


def win_matrix(data: ComparedRuns) -> Chart | None:
    arms, found = data.arms, data.aggregate
    if not found.rates:
        return None

    def cell(first: Arm, second: Arm) -> Point | None:
        return Point.of(found.rate(first.cell.key, second.cell.key))

    labels = [arm.cell.label for arm in arms]
    return Heatmap(
        "win_matrix", "Who wins against whom",
        f"Win rate of the row’s arm over the column’s, ties counted half. {data.judged.note} In the paper "
        "scalarizers win .42–.58 of the time against one another and .83–.86 against the single model.",
        labels, labels, [[None if a is b else cell(a, b) for b in arms] for a in arms], CHANCE, 0.4, "percent",
    )  # fmt: skip


def win_rates(data: ComparedRuns) -> Chart | None:
    arms = data.trained
    if not arms:
        return None
    linear = [arm.policy.of_principles and arm.policy.objective == "linear" and _twelve(arm.policy) for arm in arms]
    published = [paper.WIN_OVER_SINGLE if fits else None for fits in linear]
    references = _published(published, _models_used(data), "", "paper, linear over the single PM")
    return Dots(
        "win_rates", f"Win rates, by {_judge(data)}",
        f"Ties count half; each prompt is judged in both orders; lines are intervals over {covered(data)}."
        + (f" Grey: GPT-4-Turbo’s verdicts in the paper ({paper.SOURCE})." if references else ""),
        [arm.cell.label for arm in arms], _win_series(data), "win rate", "percent", CHANCE, (0.0, 1.0), references,
    )  # fmt: skip


def covered(data: ComparedRuns) -> str:
    """What intervals of win rates are over."""
    several = [rate.seeds > 1 for rate in data.aggregate.rates]
    if all(several):
        return "seeds and prompts"
    return "seeds and prompts, of arms with one seed over prompts alone" if any(several) else "prompts alone"


def _win_series(data: ComparedRuns) -> list[Series]:
    """Against SFT and against each other arm; against SFT with the effect of length taken out."""
    found, arms = data.aggregate, data.trained
    against = {SFT: "SFT"} | data.others
    made = [
        Series(f"against {named}", [Point.of(found.over(arm.cell, other)) for arm in arms], PLAIN - k)
        for k, (other, named) in enumerate(against.items())
    ]
    points = [Point.of(arm.mean(_controlled, data.confidence, share=True)) for arm in arms]
    made.append(Series("against SFT, length-controlled", points, PLAIN, hollow=True))
    return [series for series in made if any(series.points)]


def _controlled(policy: Policy) -> Estimate | None:
    return policy.run.details.length_controlled.get(versus(policy.name, SFT))


def human_win_rates(data: ComparedRuns) -> Chart | None:
    rows: dict[str, Shares] = {}
    for policy in data.aligned:
        for run in policy.runs:
            for name, found in ((run.human or {}).get("comparisons") or {}).items():
                first, _, second = name.partition("_vs_")
                if first == policy.name:
                    label = f"{policy.label} over {_named(run, second)}"
                    shares = Shares(label, found["win"], found["tie"], found["loss"], found.get("n"))
                    rows.setdefault(label, shares)
    if not rows:
        return None
    name = f"paper: linear over the single PM, {paper.HUMANS_MODEL}"
    published = Shares(name, paper.HUMANS["win"], paper.HUMANS["tie"], paper.HUMANS["loss"], None, published=True)
    ours = list(rows.values())
    caption = "What raters preferred, order hidden and shuffled."
    return Bars("human_win_rates", "Win rates, by people", caption, [*ours, published])


def _named(run: ComparedRun, policy: str) -> str:
    """A policy within a sentence."""
    return "SFT" if policy == SFT else run.arms[policy].named if policy in run.arms else policy


def correlations(data: ComparedRuns) -> list[Chart]:
    """One for each set of preference models: labels below the diagonal, scores above."""
    made: list[Chart] = []
    for k, (label, (models, *others)) in enumerate(data.model_sets):
        found = models.run.details.correlation
        names = found.names
        if len(names) < 2:
            continue
        labels, scores = found.labels, found.scores
        values = [[labels[i][j] if i > j else scores[i][j] for j in range(len(names))] for i in range(len(names))]
        cells = [[None if i == j or x is None else Point(x) for j, x in enumerate(row)] for i, row in enumerate(values)]
        several = len(data.model_sets) > 1
        shown = [data.model_name(name) for name in names]
        one = Heatmap(
            "correlations" + (f"_{k + 1}" if several else ""),
            "Correlations between principles" + (f" · {label}" if several else ""),
            "Below the diagonal of the feedback labels, above it of the models’ scores, on held-out pairs"
            + (f", of {models.label}." if others else "."),
            shown, shown, cells, 0.0, 1.0, "number",
        )  # fmt: skip
        made.append(one)
    return made


def ablation(data: ComparedRuns) -> Chart | None:
    """Accuracy and win rate against the number of principles."""
    both = ("accuracy of the objective", _accuracy_lines(data)), ("win rate", _win_lines(data))
    panels = [LinesPanel(title, lines, CHANCE) for title, lines in both]
    panels = [panel for panel in panels if any(not line.published for line in panel.lines)]
    if not panels:
        return None
    return Lines(
        "ablation", "Fewer principles",
        "What an objective of the first so many principles, and the policy trained on it, are worth. "
        f"Dashed grey: the ends of the paper’s curves ({paper.SOURCE}).",
        panels, "principles", "percent",
    )  # fmt: skip


def _accuracy_lines(data: ComparedRuns) -> list[Line]:
    made: list[Line] = []
    for label, (models, *_) in data.model_sets:
        several = f" · {label}" if len(data.model_sets) > 1 else ""
        for name, rows in _fewer(models.run).items():
            known = [(count, p) for count, one in rows if (p := Point.of(one))]
            made += _points_line(name + several, known, len(made)) if known else []
    counted = {len(run.principles): run for run in data.runs if run.combined}
    if len(counted) > 1 and not made:  # runs of different counts show it themselves
        points = [(count, _combined_accuracy(run)) for count, run in sorted(counted.items())]
        made += _points_line("runs", [(count, p) for count, p in points if p], 0)
    for name, (twelve, one) in paper.ABLATION.items():
        made.append(Line(f"paper, {name}", [1, 12], [one, twelve], 0, published=True))
    return made


def _fewer(run: ComparedRun) -> dict[str, list[tuple[int, Estimate | None]]]:
    """Accuracy by the number of principles, as the run's own models have it."""
    table = run.details.ablation
    if table is None:
        return {}
    whose = (table.scalarizer or run.scalarizer).replace("_", "-")
    return {
        f"{whose}, listed order": [(row.count, measured(row.accuracy)) for row in table.nested],
        f"{whose}, random subsets": [(row.count, measured(row.accuracy)) for row in table.random],
        "ceiling: true principles, random subsets": [(row.count, measured(row.ceiling)) for row in table.random],
    }


def _combined_accuracy(run: ComparedRun) -> Point | None:
    return Point.of(measured(run.results.objective_accuracy.get(run.combined or "", {})))


def _win_lines(data: ComparedRuns) -> list[Line]:
    """A line for each scalarizer whose runs have different numbers of principles."""
    lines: list[Line] = []
    for other, name in ({SFT: "SFT"} | data.others).items():
        groups: dict[str, list[tuple[int, Point]]] = {}
        for arm in data.trained:
            policy, p = arm.policy, Point.of(data.aggregate.over(arm.cell, other))
            if policy.of_principles and p:
                objective = policy.objective.replace("_", "-")
                groups.setdefault(objective, []).append((len(policy.run.principles), p))
        for objective, points in groups.items():
            if len({count for count, _ in points}) > 1:
                lines += _points_line(
                    f"{objective} over {name}", sorted(points, key=lambda point: point[0]), len(lines)
                )
    return lines


def _points_line(name: str, points: Sequence[tuple[int, Point]], colour: int) -> list[Line]:
    low = [p.low for _, p in points if p.low is not None]
    high = [p.high for _, p in points if p.high is not None]
    line = Line(name, [x for x, _ in points], [p.value for _, p in points], PLAIN - colour % 8, marked=True)
    return [replace(line, low=low, high=high) if len(low) == len(high) == len(points) else line]


def _accuracy(run: ComparedRun, name: str) -> Estimate | None:
    return run.results.single_pm_accuracy if name in run.details.whole else run.results.pm_accuracy.get(name)


def _twelve(policy: Policy) -> bool:
    """The paper's objectives are of twelve principles."""
    return not policy.of_principles or len(policy.run.principles) == 12


def _models_used(data: ComparedRuns) -> set[str]:
    return {str(run.config.get("model.name")) for run in data.runs}


def _judge(data: ComparedRuns) -> str:
    judges = dict.fromkeys(run.results.yardstick.judge for run in data.runs)
    named = {"human_utility": "the hidden human utility", "gold": "a gold preference model"}
    return " and ".join(named.get(judge, words(judge)) for judge in judges)
