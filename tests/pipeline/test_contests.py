"""Policies of finished runs, judged against one another."""

from __future__ import annotations

from pathlib import Path

import pytest
from composed import config
from rich.console import Console

from morlaif.errors import UserError
from morlaif.pipeline.compare import RunFolder
from morlaif.pipeline.contests import entrant, judged
from morlaif.units.store import Store


@pytest.mark.slow
def test_a_judge_that_costs_money_is_not_asked_unbidden(tmp_path):
    paid = config("eval=default", "data=jsonl", "data.path=x.jsonl", "judge=none")
    record = {"units": [{"name": "evaluate", "stage": "evaluate", "digest": "d1"}]}
    own = {"eval": {"judge": paid.eval.judge.model_dump(mode="json")}, "seed": 0}
    run = RunFolder(Path("run-1"), record, own, {})
    pair = entrant(run, "morlaif"), entrant(run, "sft")
    with pytest.raises(UserError, match=r"costs money; compare\.spend=true asks it"):
        judged([pair], [run], Store(tmp_path), paid.hardware, Console(), spend=False)
