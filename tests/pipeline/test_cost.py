"""What a dry run says of the labels that are still to be paid for."""

from __future__ import annotations

from io import StringIO

import pytest
from composed import config
from rich.console import Console

from morlaif.feedback.estimate import CostEstimate
from morlaif.pipeline.cost import _rated, cost_table, feedback_costs
from morlaif.planning.plan import plan
from morlaif.units.store import Store


def rows(*overrides: str) -> dict[str, list[str]]:
    """The cells of the table, by unit."""
    made = config("model=gpt2", *overrides)
    text = StringIO()
    Console(width=120, file=text).print(cost_table(feedback_costs(plan(made), Store(made.paths.store), made)))
    lines = [line.split() for line in text.getvalue().splitlines()]
    return {line[0]: line[1:] for line in lines if line}


@pytest.mark.slow
def test_a_language_model_that_judges_policies_has_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("eval=default", "eval.prompts=10", "eval.agreement=7")
    both, one = rows(*asked, "arms.select=[morlaif,rlaif]"), rows(*asked, "arms.select=[morlaif]")
    assert both["evaluate"][:2] == ["37", "0"]  # each arm against SFT, and one arm against the other; people's pairs
    assert one["evaluate"][:2] == ["17", "0"]
    assert int(both["evaluate"][2]) > int(one["evaluate"][2]) > 0  # requests


@pytest.mark.slow
def test_each_point_of_a_front_is_judged_once_in_each_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = rows("eval=default", "eval.prompts=10", "front=lora", "front.ways=[soup,direct]", "arms.select=[morlaif]")
    assert table["front/soup"][:2] == table["front/direct"][:2] == ["50", "0"]


@pytest.mark.slow
def test_several_units_are_summed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = rows("eval=default", "feedback=openai", "principles.count=2", "arms.select=[morlaif]")
    asked = [int(cells[0].replace(",", "")) for name, cells in table.items() if "/" in name or name == "evaluate"]
    assert len(asked) == 3 and table["in"][:2] == ["all", f"{sum(asked):,}"]


@pytest.mark.slow
def test_a_judge_that_runs_here_costs_tokens_and_no_dollars(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    table = rows("feedback=hf", "feedback.path=judge", "principles.count=2", "arms.select=[morlaif]")
    verdicts, known, requests, tokens, usd, time = table["feedback/helpfulness"]
    assert int(requests.replace(",", "")) == 2 * int(verdicts.replace(",", "")) and float(tokens) > 0
    assert (known, usd, time) == ("0", "0.00", "–")


def test_what_is_not_known_is_not_priced():
    unknown = CostEstimate("feedback/a", None, 0, 0, 0, 0, 0.0, None, ("who knows",))
    known = CostEstimate("feedback/b", 10, 0, 20, 1e6, 0, 0.5, 3.0)
    text = StringIO()
    Console(width=120, file=text).print(cost_table([unknown, known]))
    lines = {line.split()[0]: line.split()[1:] for line in text.getvalue().splitlines() if line.strip()}
    assert lines["feedback/a"] == ["?"] * 6
    assert lines["in"][1] == "10" and lines["in"][-1] == "–"


def test_another_methods_ratings_are_not_counted_as_ppos():
    class Other:
        criteria = ()

    assert _rated(Other(), None) is None
