"""Our sections of a report: each a function from the data of a run, as a user's own would be (see `section.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from morlaif.report import analysis, by_n, figures, moving, steps, tables
from morlaif.report import fronts as about_fronts
from morlaif.report import labels as about_labels
from morlaif.report.data import RunData, words
from morlaif.report.section import Drawing, Section


def results(run: RunData) -> Section:
    return Section(
        "results",
        "Results",
        drawings=_drawn(run, "win_rates", "changes"),
        template="section_results.html.j2",
        context={
            "confidence": run.details.confidence,
            "cards": tables.cards(run),
            **tables.leaderboard(run),
            "judge_sentence": tables.judge_sentence(run.details.judge),
            "win_rows": tables.win_rows(run),
            "controlled_rows": analysis.controlled_rows(run),
            "rate_rows": analysis.rate_rows(run),
            "response_rows": tables.response_rows(run),
            "change_sentence": tables.change_sentence(run),
            **tables.changes(run),
        },
    )


def models(run: RunData) -> Section | None:
    if not run.names:
        return None
    correlation = tables.shared_models(run)
    return Section(
        "models",
        "Preference models",
        drawings=_drawn(run, "pm_accuracy", "objective_accuracy", "correlations", "cross_accuracy", "ablation"),
        template="section_models.html.j2",
        context={
            "has_truth": bool(run.results.pm_truth_accuracy),
            "has_true_change": bool(run.details.true_change),
            "accuracy_rows": tables.accuracy_rows(run),
            "cut": tables.cut_sentence(run.details.cut),
            "objective_rows": tables.objective_rows(run),
            "correlation_names": [words(name) for name in correlation.names],
            "label_correlation_rows": tables.matrix_rows(correlation.names, correlation.labels),
            "score_correlation_rows": tables.matrix_rows(correlation.names, correlation.scores),
            **analysis.of_models(run),
        },
    )


def tradeoffs(run: RunData) -> Section | None:
    rows, budgets = analysis.tradeoff_rows(run), analysis.budget_rows(run)
    if not rows and not budgets:
        return None
    return Section(
        "tradeoffs",
        "Trade-offs and budgets",
        link="Trade-offs",
        template="section_tradeoffs.html.j2",
        context={
            "tradeoff_rows": rows,
            "budget_heads": ["", *(run.label(arm) for arm in run.details.budget.arms)],
            "budget_rows": budgets,
            "budget_note": analysis.budget_note(run.details.budget),
        },
    )


def fronts(run: RunData) -> Section | None:
    return about_fronts.fronts(run)


def best_of_n(run: RunData) -> Section | None:
    return by_n.best_of_n(run)


def training(run: RunData) -> Section:
    return Section(
        "training",
        "Training",
        drawings=_drawn(run, *(name for name in figures.FIGURES if name.startswith("training"))),
        template="section_training.html.j2",
        context={
            "names": run.names,
            "curve_rows": tables.curve_rows(run),
            "principle_curve_rows": tables.principle_curve_rows(run),
            "epoch_rows": steps.epoch_rows(run),
            "moving_rows": moving.weight_rows(run),
            "constraint_rows": moving.constraint_rows(run),
            "part_rows": steps.part_rows(run),
            "first": run.label(run.policy),
            "drawn": [run.label(arm) for arm in run.drawn] if run.many else [],
            "trained_by": run.trained_by,
            "implicit": run.implicit,
            "findings": steps.finding_rows(run),
            "distribution_rows": steps.distribution_rows(run),
            "cosines": steps.cosine_table(run),
            "kept_rows": tables.kept_rows(run),
        },
    )


def samples(run: RunData) -> Section:
    return Section(
        "samples",
        "Sample responses",
        link="Samples",
        template="section_samples.html.j2",
        context={"names": run.names, "samples": [tables.sample(run, row) for row in run.samples]},
    )


def labels(run: RunData) -> Section:
    return Section(
        "labels",
        "Labels and weights",
        link="Labels & weights",
        drawings=_drawn(run, "label_agreement"),
        template="section_labels.html.j2",
        context={
            **about_labels.context(run),
            "combined": run.label(run.policy) if run.arm.of_principles else "identity",
            "weight_rows": tables.weight_rows(run),
            "regression_sentence": analysis.regression_sentence(run.details.regression),
        },
    )


def config(run: RunData) -> Section:
    return Section(
        "config",
        "Config",
        template="section_config.html.j2",
        context={
            "config_rows": tables.config_rows(run),
            "config_yaml": yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, width=100),
        },
    )


def _drawn(run: RunData, *names: str) -> Sequence[Drawing]:
    return [Drawing(name, figures.FIGURES[name], tables.spoken(run, name)) for name in names]
