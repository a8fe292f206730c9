"""A stage says where its responses seldom end, by its own limit, and follows the share that the run expects."""

from __future__ import annotations

import pytest
from composed import config

from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan

CASES = {
    "respond": ({"train_ended": 0.2}, "20% of the sampled responses ended", "respond.max_new_tokens=80"),
    "ppo/morlaif": ({"ended": 0.2, "reward": 1.0}, "20% of the rollouts ended", "ppo.max_new_tokens="),
    "evaluate": (
        {"ended/sft": 0.9, "ended/morlaif": 0.2, "ended/rlaif": 0.1},
        ": 20% of the answers of morlaif, 10% of the answers of rlaif ended",
        "eval.max_new_tokens=80",
    ),
}


@pytest.fixture(scope="module")
def units():
    return [
        plan(config("experiment=quickstart", *more), Contents(None)).by_name for more in ([], ["model.min_ended=0.1"])
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_few_ended(units, name):
    usual, lenient = (by_name[name] for by_name in units)
    assert usual.digest == lenient.digest, "what is said changes nothing that is built"
    numbers, whose, limit = CASES[name]
    (line,) = usual.stage.doubts(usual, numbers)
    assert whose in f": {line}" and limit in line and "model.min_ended=0.5" in line
    assert not [*lenient.stage.doubts(lenient, numbers)] and not [*usual.stage.doubts(usual, {})]


def test_the_page_alone_is_made_anew(units):
    usual, lenient = units
    assert [name for name in usual if usual[name].digest != lenient[name].digest] == ["report"]
