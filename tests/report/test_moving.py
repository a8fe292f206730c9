"""Weights that move, and constraints: what is found in the curves, and that it is drawn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from morlaif.report import moving
from morlaif.report.moving import Constraint, constraints, weights

STEPS = 6


def run(rows: list[dict[str, float]], scalarizer: dict[str, Any], **weigh: list) -> Any:
    """A run of two arms, of which the second has one score and no weights that move."""
    other = [{"step": step + 1, "reward": 0.1 * step} for step in range(STEPS)]
    facts = {"names": ["detail", "toxicity"], "direction": [1.0, 1.0], "weight": [1.0, 1.0]} | weigh
    arms = ["morlaif", "rlaif"]
    return SimpleNamespace(
        arms=arms, drawn=arms, curves={"morlaif": rows, "rlaif": other}, config={"scalarizer": scalarizer},
        details=SimpleNamespace(weights={"morlaif": SimpleNamespace(**facts)}), label=str.upper,
    )  # fmt: skip


def curve(**keys: list[float]) -> list[dict[str, float]]:
    named = {key.replace("__", "/"): values for key, values in keys.items()}
    return [{"step": step + 1} | {key: values[step] for key, values in named.items()} for step in range(STEPS)]


CONSTRAINED = {
    "function": "morlaif.scalarize.functions.constrained", "params": {"hold": {"toxicity": 0.9}, "bar": None},
}  # fmt: skip
RATIOS = [1.0, 0.7, 0.6, 0.8, 0.9, 1.0]
HELD = {"objective__lambda__toxicity": [1.0, 1.1, 1.3, 1.4, 1.4, 1.3], "objective__level__toxicity": RATIOS}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("objective__factor__detail", "factor"), ("gradient_weight__detail", "weight by gradients"),
        ("objective__lambda__detail", "multiplier"),
    ],
)  # fmt: skip
def test_weights_are_found_where_they_move(key: str, kind: str) -> None:
    values = [1.0, 1.0, 1.2, 1.1, 1.0, 0.9]
    found = weights(curve(**{key: values}))
    assert found == {"detail": (kind, list(zip(range(1, 7), values, strict=True)))}
    assert weights(curve(**{key: [1.0] * STEPS})) == {}, "what stays as it is needs no curve"
    assert weights(curve(score__detail=values)) == {} == weights([])


def test_one_that_moves_shows_the_others_beside_it() -> None:
    rows = curve(objective__factor__detail=[2.0] * 6, objective__factor__toxicity=[0.5, 1, 1.5, 2, 2, 2])
    assert list(weights(rows)) == ["detail", "toxicity"]


def test_a_constraint_in_shares_is_beside_its_level() -> None:
    made = run(curve(**HELD), CONSTRAINED)
    assert constraints(made, "morlaif") == [
        Constraint("toxicity", "of SFT’s", 0.9, list(zip(range(1, 7), RATIOS, strict=True)))
    ]
    assert constraints(made, "rlaif") == []
    assert moving.constraint_rows(made) == [("MORLAIF", "toxicity", "of SFT’s", "0.90", "1.00", "0.95", "1.00")]
    assert moving.weight_rows(made) == [("MORLAIF", "toxicity", "multiplier", "1.00", "1.40", "1.30")]


def test_a_constraint_in_deviations_is_of_the_weighted_score() -> None:
    """As the Lagrangian reads it: direction and weight applied."""
    params = {"constraints": ["toxicity"], "thresholds": [0.5]}
    scalarizer = {"function": "morlaif.scalarize.functions.lagrangian", "params": params}
    rows = curve(objective__lambda__toxicity=HELD["objective__lambda__toxicity"], score__toxicity=RATIOS)
    (one,) = constraints(run(rows, scalarizer, direction=[1.0, -1.0], weight=[1.0, 2.0]), "morlaif")
    assert one.least == 0.5 and [value for _, value in one.points] == [-2 * value for value in RATIOS]


def test_each_weight_and_each_constraint_has_a_panel() -> None:
    made = moving.figure(run(curve(**HELD), CONSTRAINED))
    panels = {axes.get_title(loc="left"): axes for axes in made.axes if axes.get_visible()}
    assert list(panels) == ["toxicity", "toxicity, of SFT’s"]
    level, line = panels["toxicity, of SFT’s"].lines
    assert set(level.get_ydata()) == {0.9} and list(line.get_ydata()) == RATIOS
    assert moving.figure(run(curve(score__toxicity=RATIOS), CONSTRAINED | {"function": "linear"})) is None
