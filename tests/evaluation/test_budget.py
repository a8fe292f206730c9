"""What each arm was given, counted from its artifacts or by formula; and what "equal" is said of."""

from __future__ import annotations

from typing import Any

import pytest

from morlaif.evaluation import budget

SIZES = budget.Sizes(body=1000, parameters=3000, width=10, adapted=50, prompt=20.0, response=30.0)
CURVE = [{"length": 8.0}, {"length": 12.0}]


def arm(names, each=1, rollouts=64, curve=CURVE, ratings=None, sizes=SIZES, steps=7, **pm) -> budget.Given:
    settings = {"kind": "lora", "lora": {"r": 8}, "batch_size": 16, "epochs": 1} | pm
    report = {"pairs": {"train": 100}, "steps": steps}
    quality = {split: {"n": n, "cost": {"usd": usd, "input_tokens": 10.0 * n, "output_tokens": 1.0 * n}}
               for split, n, usd in (("train", 100, 0.5), ("eval", 20, 0.1))}  # fmt: skip
    policy = {"reads": {"ppo": {"rollouts": rollouts}}, "summary": {"steps": 2, "episodes": 2 * rollouts}}
    feedback = {"reads": {"verdicts_per_pair": each} if each > 1 else {}}
    by_name: list[dict[str, Any]] = [
        dict.fromkeys(names, x) for x in (report, {"reads": {"pm": settings}}, quality, feedback)
    ]
    return budget.arm_budget(budget.Spent(*by_name, policy, curve, ratings, sizes))


def test_amounts_are_counted_over_all_models():
    found = arm(["a", "b", "c"]).budget
    assert (found.pms, found.adapters, found.pm_pairs, found.pm_pairs_each, found.pm_steps) == (3, 3, 300, 100, 21)
    assert (found.verdicts, found.rank, found.ppo_episodes, found.ppo_tokens) == (300, 8, 128, 1280)
    assert found.usd == pytest.approx(1.8) and found.label_tokens == 3 * 11 * 120
    assert found.parameters == 3 * (8 * 50 + 10)
    assert found.pm_flops == 3 * (2 * 100) * 50 * (2 + 2) * 1000, "both sides of a pair, forward and back to adapters"
    assert found.scoring_flops == 128 * (20 + 10) * 2 * 3 * 1000


@pytest.mark.parametrize(
    ("settings", "adapters", "parameters", "training", "scoring"),
    [
        ({"kind": "full", "lora": None}, 2, 2 * 3010, 2 * 6, 2),
        ({"kind": "trunk", "top": 0.25}, 2, 2 * (100 + 10), 2 * (2 + 2 * 0.25), 0.75 + 2 * 0.25),
        ({"kind": "ensemble", "member": "lora", "top": 0.25, "members": 3}, 6, 6 * 410, 6 * 4, 6),
        ({"kind": "ensemble", "member": "trunk", "top": 0.5, "members": 3}, 6, 6 * 210, 6 * 3, 0.5 + 6 * 0.5),
        ({"kind": "heads"}, 1, 400 + 2 * 10, 1.12 * 4, 1),
        ({"kind": "conditioned"}, 1, 400 + 10, 1.12 * 4, 1),
    ],
)  # fmt: skip
def test_kinds_take_what_their_networks_take(settings, adapters, parameters, training, scoring):
    found = arm(["a", "b"], **settings).budget
    assert (found.adapters, found.parameters) == (adapters, parameters)
    assert found.pm_flops == pytest.approx(200 * 50 * 1000 * training)
    assert found.scoring_flops == pytest.approx(128 * 30 * 2 * 1000 * scoring)


def test_a_model_trained_as_long_as_twelve_has_their_steps_and_flops():
    many, longer = arm([*"abcdefghijkl"]).budget, arm(["single"], each=12, steps=84, epochs=12).budget
    assert (longer.pm_steps, longer.pm_flops, longer.verdicts) == (many.pm_steps, many.pm_flops, many.verdicts)
    ensemble = arm(["single"], kind="ensemble", member="lora", members=12).budget
    for key in ("adapters", "parameters", "pm_steps", "pm_flops", "scoring_flops"):
        assert getattr(ensemble, key) == getattr(many, key)


def test_equal_names_what_is_the_same():
    multi, single = arm(["a", "b", "c"]), arm(["single"], each=3)
    made = budget.compared({"multi": multi, "single": single})
    assert not made.equal and not hasattr(made.arms["multi"], "pm_settings")
    assert {"verdicts", "pm_settings", "rank", "ppo_episodes", "ppo_tokens", "ppo_settings"} <= {*made.same}
    assert {"adapters", "parameters", "pm_steps", "pm_flops", "scoring_flops"} <= {*made.differs}
    assert "ratings" not in [*made.same, *made.differs], "no arm had any"
    again = budget.compared({"a": multi, "b": arm(["a", "b", "c"])})
    assert again.equal and again.differs == []
    wider = budget.compared({"multi": multi, "single": arm(["a", "b", "c"], lora={"r": 16}, rollouts=128)})
    assert {"rank", "pm_settings", "parameters", "ppo_episodes", "ppo_settings"} <= {*wider.differs}


def test_ratings_count_where_a_judge_is_the_reward():
    rated = [{"length": 8.0, "reward/ratings": 64.0, "reward/usd": 0.25}] * 2
    made = arm([], curve=rated, ratings={"ratings": 32.0, "usd": 0.5})
    assert made.budget.ratings == 160 and made.budget.usd == pytest.approx(1.0) and made.budget.pms == 0
    assert budget.compared({"direct": made, "rlaif": arm(["single"])}).differs[:3] == [
        "verdicts",
        "label_tokens",
        "ratings",
    ]


def test_what_nobody_knows_is_none():
    empty = budget.arm_budget(budget.Spent({}, {}, {}, {}, {}))
    assert empty.budget.pms == 0 and empty.budget.verdicts is None and empty.budget.ppo_episodes is None
    assert empty.budget.usd is None and empty.budget.ratings is None
    assert arm(["a"], sizes=None).budget.pm_flops is None and arm(["a"], sizes=None).budget.pm_steps == 7
    own = arm(["a"], kind="my_package.Own").budget
    assert own.adapters is None and own.parameters is None and own.pm_steps == 7
