"""What a tracker is told of a finished run and of a comparison: few numbers to compare by, tables, and all the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from morlaif.evaluation.aggregate import Aggregate, CellRate, SeedEstimate
from morlaif.evaluation.results import Estimate, RunResults, parse

STANDARDS = ("human", "truth", "label")  # the first that an accuracy is known by


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[Any]]


def headline(results: RunResults, seconds: float | None = None) -> dict[str, float]:
    """The numbers by which runs are compared, as columns of a table of runs; what is not known is left out."""
    found: dict[str, float | None] = {}
    for versus, rate in results.win_rate.items():
        found |= {f"win_rate/{versus}": rate.value, f"win_rate/{versus}/low": rate.low}
        found[f"win_rate/{versus}/high"] = rate.high
    for arm, accuracies in results.objective_accuracy.items():
        found[f"accuracy/{arm}"] = _first(accuracies)
    models = [one.value for one in results.pm_accuracy.values() if one.value is not None]
    if models:
        found |= {"accuracy/models_mean": sum(models) / len(models), "accuracy/models_least": min(models)}
    if results.single_pm_accuracy is not None:
        found["accuracy/single_model"] = results.single_pm_accuracy.value
    found |= {f"length/{policy}": tokens for policy, tokens in results.length.items()}
    found |= {"kl": results.kl, "reward_gain": results.reward.last - results.reward.first, "seconds": seconds}
    return {name: value for name, value in found.items() if value is not None}


def _first(accuracies: Mapping[str, Estimate]) -> float | None:
    known = (accuracies[standard].value for standard in STANDARDS if standard in accuracies)
    return next((value for value in known if value is not None), None)


class Told(NamedTuple):
    """Of a comparison."""

    keys: list[str]  # in which its runs differ
    arms: dict[str, str]  # what is compared, but for SFT -> the method that made it
    principles: list[str]
    headline: dict[str, float]
    tables: dict[str, Table]


def comparison(found: Mapping[str, Any], where: Path) -> Told:
    """What `comparison.json` holds for a tracker.

    Raises:
        Damaged: it is of another version.
    """
    aggregate = parse(Aggregate, found["aggregate"], where)
    results = {run["name"]: parse(RunResults, run["results"], where) for run in found["runs"]}
    keys = list(found["runs"][0]["differs"])
    methods = {policy["arm"]: policy["key"].partition("/")[0] for policy in found["policies"]}
    arms = {arm: method for arm, method in methods.items() if method not in ("sft", "outside")}
    principles = list(dict.fromkeys(name for one in results.values() for name in one.pm_accuracy))
    return Told(keys, arms, principles, _strengths(aggregate), _tables(found, keys, aggregate, results))


def _strengths(aggregate: Aggregate) -> dict[str, float]:
    """Of each arm under each setting, over its seeds."""
    labels = {cell.key: cell.label for cell in aggregate.cells}
    found = {f"{one.measure}/{one.label}": one.value for one in aggregate.measures}
    found |= {f"strength/{labels[one.cell]}": one.strength.value for one in aggregate.standings if one.strength}
    return {name: value for name, value in found.items() if value is not None}


def _tables(
    found: Mapping[str, Any], keys: Sequence[str], aggregate: Aggregate, results: Mapping[str, RunResults]
) -> dict[str, Table]:
    board = found["leaderboard"]
    lines = {name: headline(one) for name, one in results.items()}
    names = list(dict.fromkeys(name for line in lines.values() for name in line))
    settings = list(dict.fromkeys(key for cell in aggregate.cells for key in cell.setting))
    made = {
        "leaderboard": Table(list(board["heads"]), [list(row) for row in board["rows"]]),
        "runs": Table(
            ["run", *keys, *names],
            [
                [run["name"], *(run["differs"].get(key) for key in keys), *(lines[run["name"]].get(n) for n in names)]
                for run in found["runs"]
            ],
        ),
        "over_seeds": Table(
            ["arm", *settings, "measure", "value", "low", "high", "seeds", "interval", "prompts"],
            [_measure(one, settings) for one in aggregate.measures],
        ),
        "win_rates": Table(
            ["first", "second", "value", "low", "high", "seeds", "prompts", "p", "p_holm", "verdict"],
            [_rate(one) for one in aggregate.rates],
        ),
    }  # fmt: skip
    return {name: table for name, table in made.items() if table.rows}


def _measure(one: SeedEstimate, settings: Sequence[str]) -> list[Any]:
    values = [one.value, one.low, one.high, one.seeds, one.method, one.n]
    return [one.arm, *(one.setting.get(key) for key in settings), one.measure, *values]


def _rate(one: CellRate) -> list[Any]:
    values = [one.value, one.low, one.high, one.seeds, one.n, one.p_value, one.adjusted, one.verdict]
    return [one.label, one.against_label, *values]
