"""What a tracker is told of a run and of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from morlaif.errors import Damaged
from morlaif.evaluation.aggregate import Aggregate, Cell, CellRate, SeedEstimate, Standing
from morlaif.evaluation.results import Estimate, Gain, Rate, RunResults, Yardstick, as_json
from morlaif.pipeline.tracked import comparison, headline

HALF = Estimate(0.5, 0.4, 0.6, 20)
UNKNOWN = Estimate(None, None, None, 0)


def results(gain: float = 0.5) -> RunResults:
    rate = Rate(0.7, 0.6, 0.8, 20, win=0.6, tie=0.2, loss=0.2, flip_rate=0.0, invalid=0)
    return RunResults(
        pm_accuracy={"empathy": HALF, "bias": Estimate(0.7, 0.6, 0.8, 20), "detail": UNKNOWN},
        single_pm_accuracy=None,
        pm_truth_accuracy={},
        objective_accuracy={"morlaif": {"human": UNKNOWN, "truth": HALF}},
        win_rate={"morlaif_vs_sft": rate},
        yardstick=Yardstick("y", "utility", "j", "", "p", 20),
        reward=Gain(0.0, gain),
        kl=None,
        length={"sft": 20.0, "morlaif": 30.0},
    )


def test_a_run_has_few_numbers_to_compare_by_and_none_that_is_not_known():
    found = headline(results(), seconds=3.0)
    assert found == {
        "win_rate/morlaif_vs_sft": 0.7, "win_rate/morlaif_vs_sft/low": 0.6, "win_rate/morlaif_vs_sft/high": 0.8,
        "accuracy/morlaif": 0.5, "accuracy/models_mean": pytest.approx(0.6), "accuracy/models_least": 0.5,
        "length/sft": 20.0, "length/morlaif": 30.0, "reward_gain": 0.5, "seconds": 3.0,
    }  # fmt: skip


def test_a_comparison_has_its_runs_its_leaderboard_and_what_is_known_over_seeds():
    cells = [Cell(f"ppo/{name}", name, "morlaif", {"scalarizer.name": name}, {"0": f"ppo/{name}"}) for name in "ab"]
    facts = {"cell": "ppo/a", "label": "a", "arm": "morlaif", "setting": cells[0].setting, "seeds": 2, "n": 20,
             "method": "seeds and prompts", "by_seed": {}}  # fmt: skip
    rate = CellRate(
        value=0.6, low=0.5, high=0.7, measure="rate", against="ppo/b", against_label="b", paired=True, p_value=0.04,
        adjusted=0.04, verdict="better", **facts,
    )  # fmt: skip
    over = SeedEstimate(value=0.7, low=0.6, high=0.8, measure="win_rate", **facts)
    aggregate = Aggregate(0.95, cells, [over], [rate], [Standing("ppo/a", 1, 1, HALF), Standing("ppo/b", 2, 2, None)])
    found = {
        "runs": [{"name": n, "differs": {"scalarizer.name": n}, "results": as_json(results())} for n in "ab"],
        "policies": [{"key": "ppo/a", "arm": "morlaif"}, {"key": "own/b", "arm": "b"}, {"key": "sft/s", "arm": "sft"}],
        "aggregate": as_json(aggregate),
        "leaderboard": {"heads": ["rank", "arm"], "rows": [["1", "a"]]},
    }
    told = comparison(found, Path("comparison.json"))
    assert (told.keys, told.arms) == (["scalarizer.name"], {"morlaif": "ppo", "b": "own"})
    assert told.principles == ["empathy", "bias", "detail"]
    assert told.headline == {"win_rate/a": 0.7, "strength/a": 0.5}
    assert told.tables["leaderboard"].rows == [["1", "a"]]
    assert told.tables["runs"].columns[:3] == ["run", "scalarizer.name", "win_rate/morlaif_vs_sft"]
    assert told.tables["runs"].rows[1][:3] == ["b", "b", 0.7]
    row = dict(zip(told.tables["over_seeds"].columns, told.tables["over_seeds"].rows[0], strict=True))
    assert row["scalarizer.name"] == "a" and (row["measure"], row["value"], row["seeds"]) == ("win_rate", 0.7, 2)
    row = dict(zip(told.tables["win_rates"].columns, told.tables["win_rates"].rows[0], strict=True))
    assert (row["first"], row["second"], row["p_holm"], row["verdict"]) == ("a", "b", 0.04, "better")
    with pytest.raises(Damaged, match=r"comparison\.json: standings"):
        comparison(found | {"aggregate": {"standings": 1}}, Path("comparison.json"))
