"""What a dry run says of the labels that are still to be paid for."""

from __future__ import annotations

from io import StringIO

from composed import config
from rich.console import Console

from morlaif.pipeline.cost import cost_table, feedback_costs
from morlaif.planning.plan import plan
from morlaif.units.store import Store


def rows(*overrides: str) -> dict[str, list[str]]:
    """The cells of the table, by unit."""
    made = config("model=gpt2", *overrides)
    text = StringIO()
    Console(width=120, file=text).print(cost_table(feedback_costs(plan(made), Store(made.paths.store), made)))
    lines = [line.split() for line in text.getvalue().splitlines()]
    return {line[0]: line[1:] for line in lines if line}


def test_a_language_model_that_judges_policies_has_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("eval=default", "eval.prompts=10")
    both, one = rows(*asked), rows(*asked, "arms.select=[morlaif]")
    assert both["evaluate"][:2] == ["30", "0"]  # each arm against SFT, and one arm against the other
    assert one["evaluate"][:2] == ["10", "0"]
    assert int(both["evaluate"][2]) > int(one["evaluate"][2]) > 0  # requests


def test_several_units_are_summed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = rows("eval=default", "feedback=openai", "principles.count=2", "arms.select=[morlaif]")
    asked = [int(cells[0].replace(",", "")) for name, cells in table.items() if "/" in name or name == "evaluate"]
    assert len(asked) == 3 and table["in"][:2] == ["all", f"{sum(asked):,}"]
