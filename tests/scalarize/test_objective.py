"""Raw scores to one number: the order of the steps, the edges, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from morlaif.errors import UserError
from morlaif.scalarize.functions import linear, max_min
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

NAMES = ("help", "praise", "detail")


def objective(scalarizer=linear, **change) -> Objective:
    fields = {
        "mean": torch.tensor([1.0, -2.0, 0.0]),
        "scale": torch.tensor([2.0, 0.5, 1.0]),
        "direction": torch.tensor([1.0, -1.0, 1.0]),
        "weight": torch.tensor([3.0, 0.5, 1.0]),
    }
    return Objective(names=NAMES, scalarizer=scalarizer, **{**fields, **change})


def test_the_order_of_the_steps() -> None:
    raw = torch.tensor([[5.0, -1.0, 4.0]])
    torch.testing.assert_close(objective().normalize(raw), torch.tensor([[2.0, 2.0, 4.0]]))
    torch.testing.assert_close(objective().weigh(torch.tensor([[2.0, 2.0, 4.0]])), torch.tensor([[6.0, -1.0, 4.0]]))
    torch.testing.assert_close(objective()(raw), torch.tensor([9.0]))
    torch.testing.assert_close(objective(max_min)(raw), torch.tensor([-1.0]))


def test_a_flipped_principle_prefers_less_under_a_minimum() -> None:
    low, high = objective(max_min)(torch.tensor([[1.0, -2.5, 0.0], [1.0, 3.0, 0.0]]))
    assert low > high


def test_a_principle_of_weight_zero_is_not_heard() -> None:
    muted = objective(max_min, weight=torch.tensor([1.0, 0.0, 1.0]))
    assert muted.active == ("help", "detail")
    values = muted(torch.tensor([[5.0, 900.0, 4.0], [5.0, -900.0, 4.0]]))
    torch.testing.assert_close(values, torch.tensor([2.0, 2.0]))  # a constant zero would cap the minimum at 0


def test_names_and_weights_reach_the_scalarizer() -> None:
    home = "morlaif.scalarize.functions"
    single = resolve(ScalarizerSettings(name="single", function=f"{home}.single", params={"principle": "detail"}))
    muted = objective(single, weight=torch.tensor([1.0, 0.0, 2.0]))
    torch.testing.assert_close(muted(torch.tensor([[5.0, 0.0, 4.0]])), torch.tensor([8.0]))
    ideal = resolve(ScalarizerSettings(name="t", function=f"{home}.tchebycheff", params={"ideal": 1.0}))
    raw = torch.tensor([[1.0, -2.0, 0.0]])  # normalised zero: gaps are the weights
    torch.testing.assert_close(objective(ideal)(raw), torch.tensor([-3.0]))


def test_columns_are_found_by_name() -> None:
    other = objective().select(["detail", "help"])
    torch.testing.assert_close(other(torch.tensor([[4.0, 5.0]])), torch.tensor([10.0]))
    with pytest.raises(UserError, match=r"no principle 'detial'.* Did you mean 'detail'\?"):
        objective().select(["detial"])
    with pytest.raises(UserError, match=r"expected scores \(batch, 3\)"):
        objective()(torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale": torch.tensor([1.0, 0.0, 1.0])}, "scale of 'praise'"),
        ({"weight": torch.tensor([1.0, -1.0, 1.0])}, "weight of 'praise' is negative"),
        ({"weight": torch.zeros(3)}, "every weight is zero"),
        ({"direction": torch.tensor([1.0, 0.5, 1.0])}, "direction"),
        ({"mean": torch.tensor([1.0, float("nan"), 1.0])}, "finite"),
        ({"mean": torch.zeros(2)}, "must hold 3"),
        ({"names": ("a", "a", "b")}, "is given twice"),
    ],
)
def test_what_cannot_be_right(change: dict, says: str) -> None:
    fields = {key: getattr(objective(), key) for key in ("names", "mean", "scale", "direction", "weight")}
    with pytest.raises(UserError, match=says):
        Objective(scalarizer=linear, **{**fields, **change})


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    objective().save(path, method="given", responses=7)
    raw = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Objective.load(path, linear)(raw), objective()(raw), rtol=0, atol=0)
    turned = Objective.load(path, linear, names=["detail", "praise", "help"])
    torch.testing.assert_close(turned(raw.flip(1)), objective()(raw))
    with pytest.raises(UserError, match="no principle 'empathy'"):
        Objective.load(path, linear, names=["empathy"])
