"""The paper's seven figures, from the data of a comparison. None where its runs have nothing of the kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from morlaif.report.analysis import measured
from morlaif.report.comparison import paper
from morlaif.report.comparison.charts import (
    Bars,
    Chart,
    Dots,
    Heatmap,
    Line,
    Lines,
    Panel,
    Point,
    Reference,
    Series,
    Shares,
)
from morlaif.report.comparison.data import SFT, Comparison, Policy, Run
from morlaif.report.data import SINGLE, words

CHANCE = 0.5


def principle_accuracy(data: Comparison) -> Chart | None:
    names = [*data.principles, *([SINGLE] if any(SINGLE in run.details["names"] for run in data.runs) else [])]
    held_out = "held-out labels" if len(data.models) == 1 else ""
    series = [
        Series(held_out or models.label, [Point.of(_accuracy(models.run, name)) for name in names], k)
        for k, models in enumerate(data.models)
    ]
    if len(data.models) == 1 and (true := data.models[0].run.results.get("pm_truth_accuracy")):
        series.append(Series("known truth", [Point.of(true.get(name)) for name in names], 1, hollow=True))
    references = [
        Reference(f"paper, {size}: lowest to highest", [None if name == SINGLE else span for name in names])
        for size, span in paper.PRINCIPLES.items()
        if len(names) >= 12
    ]
    return Dots(
        "principle_accuracy", "Accuracy of the preference models by principle",
        "How often each preference model orders a held-out pair as its judge does, with intervals."
        + (f" Grey: the range of the paper’s twelve principles ({paper.SOURCE})." if references else ""),
        [_model_name(name) for name in names], series, "pairs ordered rightly", "percent",
        CHANCE, (None, 1.0), references,
    )  # fmt: skip


def objective_accuracy(data: Comparison) -> Chart | None:
    rows: list[tuple[str, Mapping[str, Any], tuple[float, ...] | None]] = []
    for policy in data.aligned:
        objective = "single" if policy.arm == SINGLE else str(policy.run.config.get("scalarizer.name"))
        found = policy.run.results["objective_accuracy"].get(policy.arm)
        if found and _twelve(policy):
            rows.append((policy.label, found, paper.OBJECTIVES.get(objective)))
        elif found:
            rows.append((policy.label, found, None))
    trained = {str(policy.run.config.get("scalarizer.name")) for policy in data.aligned if policy.arm == "multi"}
    if len(data.models) == 1:  # what the same models would have said under the other scalarizers
        for name, found in (data.runs[0].details.get("scalarizer_accuracy") or {}).items():
            if name not in trained:
                published = paper.OBJECTIVES.get(name) if len(data.principles) == 12 else None
                rows.append((f"{name.replace('_', '-')}, no policy", found, published))
    if ceiling := next((run.results["objective_accuracy"].get("ceiling") for run in data.runs), None):
        rows.append(("ceiling: true principles", ceiling, (paper.CEILING,)))
    if not rows:
        return None
    kinds = [("human", "human labels", False), ("truth", "known truth", True)]
    series = [
        Series(name, [Point.of(values.get(kind)) for _, values, _ in rows], k, hollow)
        for k, (kind, name, hollow) in enumerate(kinds)
        if any((values.get(kind) or {}).get("value") is not None for _, values, _ in rows)
    ]
    spans, sizes = [], ""
    for _, _, published in rows:
        low, high, size = paper.span(published, _models_used(data)) if published else (None, None, "")
        spans.append(None if low is None else (low, high))
        sizes = sizes or (size if published and len(published) > 1 else "")
    references = [Reference(f"paper, {sizes or 'ceiling'}", spans)] if any(spans) else []
    return Dots(
        "objective_accuracy", "Accuracy of the objectives",
        "How often each scalarized objective, the single preference model and the true principles order a held-out "
        "pair as people do" + (" and as the known truth does." if len(series) > 1 else ".")
        + (f" Grey: the paper’s, on human labels ({paper.SOURCE})." if references else ""),
        [label for label, *_ in rows], series, "pairs ordered rightly", "percent", CHANCE, (None, 1.0), references,
    )  # fmt: skip


def win_matrix(data: Comparison) -> Chart | None:
    policies = data.policies
    rates = {(row["first"], row["second"]): row for row in data.judged.get("rates", ())}
    if not any(row.get("value") is not None for row in rates.values()):
        return None

    def cell(first: Policy, second: Policy) -> Point | None:
        if row := rates.get((first.key, second.key)):
            return Point.of(row)
        if (row := Point.of(rates.get((second.key, first.key)))) is None:
            return None
        turned = [None if x is None else 1 - x for x in (row.value, row.high, row.low)]
        return Point(*turned, row.n)

    labels = [policy.label for policy in policies]
    cells = [[None if a is b else cell(a, b) for b in policies] for a in policies]
    return Heatmap(
        "win_matrix", "Who wins against whom",
        f"Win rate of the row’s policy over the column’s, ties counted half. {data.judged['note']} In the paper "
        "scalarizers win .42–.58 of the time against one another and .83–.86 against the single model.",
        labels, labels, cells, CHANCE, 0.4, "percent",
    )  # fmt: skip


def win_rates(data: Comparison) -> Chart | None:
    rows = data.aligned
    if not rows:
        return None
    against = [("against SFT", SFT, 0), ("against the single PM", SINGLE, 1)]
    series = [
        Series(name, [Point.of(policy.run.win_rate(policy.arm, other)) for policy in rows], colour)
        for name, other, colour in against
    ]
    if any(run.details.get("length_controlled") for run in data.runs):
        found = [_length_controlled(policy, SFT) for policy in rows]
        if any(found):
            series.append(Series("against SFT, length-controlled", found, 2, hollow=True))
    series = [one for one in series if any(one.points)]
    models = _models_used(data)
    spans: list[tuple[float, float] | None] = []
    size = ""
    for policy in rows:
        fits = policy.arm != SINGLE and policy.run.config.get("scalarizer.name") == "linear" and _twelve(policy)
        low, high, size = paper.span(paper.WIN_OVER_SINGLE, models) if fits else (None, None, size)
        spans.append((low, high) if fits else None)
    references = [Reference(f"paper, linear over the single PM, {size}", spans)] if any(spans) else []
    return Dots(
        "win_rates", f"Win rates, by {_judge(data)}",
        "Ties count half; each prompt is judged in both orders; lines are bootstrap intervals over prompts."
        + (f" Grey: GPT-4-Turbo’s verdicts in the paper ({paper.SOURCE})." if references else ""),
        [policy.label for policy in rows], series, "win rate", "percent", CHANCE, (0.0, 1.0), references,
    )  # fmt: skip


def human_win_rates(data: Comparison) -> Chart | None:
    rows = []
    for policy in data.aligned:
        for run in policy.runs:
            for name, found in ((run.human or {}).get("comparisons") or {}).items():
                first, _, second = name.partition("_vs_")
                other = {"sft": "SFT", SINGLE: "the single PM"}.get(second, second)
                label = f"{policy.label} over {other}"
                if first == run.role(policy.arm) and label not in [row.label for row in rows]:
                    rows.append(Shares(label, *(found[key] for key in ("win", "tie", "loss")), found.get("n")))
    if not rows:
        return None
    name, shares = f"paper: linear over the single PM, {paper.HUMANS_MODEL}", paper.HUMANS.values()
    rows.append(Shares(name, *shares, None, published=True))
    return Bars("human_win_rates", "Win rates, by people", "What raters preferred, order hidden and shuffled.", rows)


def correlations(data: Comparison) -> list[Chart]:
    """One for each set of preference models: labels below the diagonal, scores above."""
    made: list[Chart] = []
    for k, models in enumerate(data.models):
        found = models.run.details["correlation"]
        names = found["names"]
        if len(names) < 2:
            continue
        labels, scores = found["labels"], found["scores"]
        values = [[labels[i][j] if i > j else scores[i][j] for j in range(len(names))] for i in range(len(names))]
        cells = [[None if i == j or x is None else Point(x) for j, x in enumerate(row)] for i, row in enumerate(values)]
        several = len(data.models) > 1
        shown = [_model_name(name) for name in names]
        one = Heatmap(
            "correlations" + (f"_{k + 1}" if several else ""),
            "Correlations between principles" + (f" · {models.label}" if several else ""),
            "Below the diagonal of the feedback labels, above it of the models’ scores, on held-out pairs.",
            shown, shown, cells, 0.0, 1.0, "number",
        )  # fmt: skip
        made.append(one)
    return made


def ablation(data: Comparison) -> Chart | None:
    """Accuracy and win rate against the number of principles."""
    both = ("accuracy of the objective", _accuracy_lines(data)), ("win rate", _win_lines(data))
    panels = [Panel(title, lines, CHANCE) for title, lines in both]
    panels = [panel for panel in panels if any(not line.published for line in panel.lines)]
    if not panels:
        return None
    return Lines(
        "ablation", "Fewer principles",
        "What an objective of the first so many principles, and the policy trained on it, are worth. "
        f"Dashed grey: the ends of the paper’s curves ({paper.SOURCE}).",
        panels, "principles", "percent",
    )  # fmt: skip


def _accuracy_lines(data: Comparison) -> list[Line]:
    made: list[Line] = []
    for models in data.models:
        found = models.run.details.get("ablation") or {}
        several = f" · {models.label}" if len(data.models) > 1 else ""
        kinds = (("nested", "accuracy", "listed order"), ("random", "accuracy", "random subsets"),
                 ("random", "ceiling", "ceiling, random subsets"))  # fmt: skip
        for key, what, name in kinds:
            rows = [(row["count"], Point.of(measured(row.get(what) or {}))) for row in found.get(key) or ()]
            known = [(count, p) for count, p in rows if p]
            made += _points_line(name + several, known, len(made)) if known else []
    counted = {len(run.principles): run for run in data.runs if "multi" in run.arms}
    if len(counted) > 1 and not made:  # runs of different counts tell it themselves
        points = [(count, _best_accuracy(run)) for count, run in sorted(counted.items())]
        made += _points_line("runs", [(count, p) for count, p in points if p], 0)
    for name, (twelve, one) in paper.ABLATION.items():
        made.append(Line(f"paper, {name}", [1, 12], [one, twelve], 0, published=True))
    return made


def _best_accuracy(run: Run) -> Point | None:
    return Point.of(measured(run.results["objective_accuracy"].get("multi") or {}))


def _win_lines(data: Comparison) -> list[Line]:
    """A line for each scalarizer whose runs have different numbers of principles."""
    lines = []
    for other, name in ((SFT, "over SFT"), (SINGLE, "over the single PM")):
        groups: dict[str, list[tuple[int, Point]]] = {}
        for policy in data.aligned:
            p = Point.of(policy.run.win_rate(policy.arm, other))
            if policy.arm == "multi" and p:
                objective = str(policy.run.config.get("scalarizer.name")).replace("_", "-")
                groups.setdefault(objective, []).append((len(policy.run.principles), p))
        for objective, points in groups.items():
            if len({count for count, _ in points}) > 1:
                lines += _points_line(f"{objective} {name}", sorted(points, key=lambda point: point[0]), len(lines))
    return lines


def _points_line(name: str, points: Sequence[tuple[int, Point]], colour: int) -> list[Line]:
    bounds = [[getattr(p, side) for _, p in points] for side in ("low", "high")]
    low, high = (None if None in side else side for side in bounds)
    return [Line(name, [x for x, _ in points], [p.value for _, p in points], colour, low, high, marked=True)]


def _accuracy(run: Run, name: str) -> Mapping[str, Any] | None:
    if name == SINGLE:
        return run.results.get("single_pm_accuracy")
    return run.results["pm_accuracy"].get(name)


def _length_controlled(policy: Policy, other: str) -> Point | None:
    found = policy.run.details.get("length_controlled") or {}
    return Point.of(found.get(f"{policy.run.role(policy.arm)}_vs_{other}"))


def _twelve(policy: Policy) -> bool:
    """The paper's objectives are of twelve principles."""
    return policy.arm == SINGLE or len(policy.run.principles) == 12


def _models_used(data: Comparison) -> set[str]:
    return {str(run.config.get("model.name")) for run in data.runs}


def _judge(data: Comparison) -> str:
    names = {run.details["judge"]["name"]: run.details["judge"]["source"] for run in data.runs}
    told = {"rules": "the known truth", "pm": "a gold preference model"}
    return " and ".join(told.get(source, name) for name, source in names.items())


def _model_name(name: str) -> str:
    return "single PM" if name == SINGLE else words(name)


PAPER: Sequence[Callable[[Comparison], Chart | None]] = (
    principle_accuracy, objective_accuracy, win_matrix, win_rates, human_win_rates, ablation,
)  # fmt: skip
