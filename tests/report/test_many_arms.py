"""A page of more arms than a figure can show apart: a leaderboard has all, figures the first few."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from morlaif.evaluation.results import ArmFacts, Correlations, Rate
from morlaif.report import tables
from morlaif.report.data import DRAWN, RunData


def run_of(rates: dict[str, float | None], methods: dict[str, str]) -> RunData:
    arms = {name: ArmFacts("principles", [], name.upper(), methods.get(name, "ppo")) for name in rates}
    budget = SimpleNamespace(arms={})
    details = SimpleNamespace(arms=arms, hacking={}, names=[], principles={}, prompts=9, budget=budget)
    wins = {f"{name}_vs_sft": _rate(value) for name, value in rates.items()}
    results = SimpleNamespace(win_rate=wins, length=dict.fromkeys(rates, 12.0))
    curves = {name: [{"step": 1, "kl": 2.0}] for name in rates}
    return RunData({"name": "many"}, results, details, [], curves, {name: [] for name in rates})


def _rate(value: float | None) -> Rate:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return Rate(value=value, low=low, high=high, n=9, win=0.5, tie=0.1, loss=0.4, flip_rate=0.0, invalid=0)


FEW = {"a": 0.4, "b": 0.9, "c": 0.5}
MANY = {**FEW, "d": 0.6, "e": None, "f": 0.7, "g": 0.8, "h": 0.3}


def test_a_leaderboard_has_every_arm_the_best_first():
    board = tables.leaderboard(run_of(MANY, {}))
    assert [row[0] for row in board["board_rows"]] == ["B", "G", "F", "D", "C", "A", "H", "E"]
    assert all(len(row) == len(board["board_heads"]) for row in board["board_rows"])
    assert board["board_rows"][0][2] == "2.0"  # KL


def test_two_arms_need_none():
    assert tables.leaderboard(run_of({"a": 0.4, "b": 0.9}, {}))["board_rows"] == []


def test_figures_show_all_of_few_arms_and_the_first_of_the_policys_method_of_many():
    assert run_of(FEW, {"b": "dpo"}).drawn == ["a", "b", "c"]
    many = run_of(MANY, {"b": "dpo"})
    assert many.drawn == ["a", "c", "d", "e", "f"] and len(many.drawn) == DRAWN


@pytest.mark.parametrize(("rates", "words"), [(FEW, "SFT and with B and with C"), (MANY, "SFT and 7 other policies")])
def test_the_first_sentence_names_few(rates, words):
    assert words in tables.subtitle(run_of(rates, {}))


def test_models_of_one_arm_are_in_no_matrix():
    square = np.arange(9.0).reshape(3, 3).tolist()
    run = run_of(FEW, {})
    run.details.correlation = Correlations(["x", "x@own", "y"], square, square, None)
    found = tables.shared_models(run)
    assert found.names == ["x", "y"] and found.scores == [[0.0, 2.0], [6.0, 8.0]] == found.labels
