"""What an objective learns while a policy trains: running statistics, Lagrange multipliers, a user's own state."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif.errors import UserError
from morlaif.presets import preset
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

CONF = Path(__file__).parents[2] / "conf" / "scalarizer"
NAMES = ("helpfulness", "toxicity", "detail")


def configured(name: str, **params):
    config = preset("scalarizer", name)
    return resolve(ScalarizerSettings(**config | {"params": config["params"] | params}))


def lagrangian(**params):
    return configured("lagrangian", **params)


def objective(scalarizer=linear, **change) -> Objective:
    fields = {
        "names": NAMES,
        "mean": torch.tensor([1.0, -2.0, 0.0]),
        "scale": torch.tensor([2.0, 0.5, 1.0]),
        "direction": torch.ones(3),
        "weight": torch.ones(3),
        "responses": 10,
    }
    return Objective(scalarizer=scalarizer, **{**fields, **change})


def batches(count: int, size: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, generator=generator) * 3 + i for i in range(count)]


# --- the running normaliser ---


def test_running_statistics_are_those_of_all_scores_the_first_responses_among_them() -> None:
    first = torch.randn(40, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 2 + 5
    made = objective(mean=first.mean(0), scale=first.std(0, correction=0), responses=40, normalizer="running")
    seen = [first, *(batch.double() for batch in batches(5))]
    for count, batch in enumerate(seen[1:], start=2):
        made.observe(batch)
        everything = torch.cat(seen[:count])
        want = (batch - everything.mean(0)) / everything.std(0, correction=0)
        torch.testing.assert_close(made.normalize(batch), want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made(batch), want.sum(1), atol=1e-5, rtol=1e-5)


def test_before_anything_is_seen_running_is_frozen() -> None:
    scores = batches(1)[0]
    torch.testing.assert_close(objective(normalizer="running")(scores), objective()(scores))
    nothing = objective(normalizer="running", responses=0)
    torch.testing.assert_close(nothing(scores), objective()(scores))
    nothing.observe(scores)  # without a prior, the first batch is normalised by itself
    torch.testing.assert_close(nothing.normalize(scores).mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(nothing.normalize(scores).std(0, correction=0), torch.ones(3))


def test_running_survives_scores_that_do_not_vary() -> None:
    made = objective(normalizer="running", responses=0)
    made.observe(torch.full((4, 3), 2.0))
    assert made(torch.tensor([[1.0, 2.0, 3.0]])).isfinite().all()


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=5, unique=True))
def test_how_the_scores_are_cut_into_batches_does_not_matter(cuts: list[int]) -> None:
    scores = torch.randn(30, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 9 - 100
    whole, parts = objective(normalizer="running"), objective(normalizer="running")
    whole.observe(scores)
    for part in scores.tensor_split(sorted(cuts)):
        parts.observe(part)
    torch.testing.assert_close(parts.normalize(scores), whole.normalize(scores), atol=1e-9, rtol=1e-9)


# --- group ---


def test_group_is_frozen_for_whoever_does_not_know_the_groups() -> None:
    scores = batches(1)[0]
    grouped = objective(normalizer="group")
    assert torch.equal(grouped(scores), objective()(scores)) and not grouped.stateful
    assert torch.equal(grouped(scores[:1]), grouped(scores)[:1])  # a single pair in an evaluation
    torch.testing.assert_close(grouped.combine(torch.tensor([[1.0, -1.0, 0.5]])), torch.tensor([0.5]))


# --- the Lagrangian ---


def test_multipliers_follow_the_formula() -> None:
    """ln λ ← ln λ + α λ J, J the mean of threshold - score over the batch, written out."""
    made = objective(lagrangian(step_size=0.3, maximum=50.0))
    multiplier = 1.0
    for batch in batches(4):
        normal = [(row[1] + 2.0) / 0.5 for row in batch.tolist()]
        cost = sum(0.5 - x for x in normal) / len(normal)
        multiplier = min(math.exp(math.log(multiplier) + 0.3 * multiplier * cost), 50.0)
        made.observe(batch)
        assert made.learnt() == {"lambda/toxicity": pytest.approx(multiplier, rel=1e-6)}
        z = (batch - made.mean) / made.scale
        want = ((z[:, 0] + z[:, 2]) / 2 - multiplier * (0.5 - z[:, 1])) / (1 + multiplier)
        torch.testing.assert_close(made(batch), want, rtol=1e-5, atol=1e-5)


def test_a_violated_constraint_weighs_more_and_a_satisfied_one_less() -> None:
    for score, grows in ((-5.0, True), (5.0, False)):
        made = objective(lagrangian())
        found = []
        for _ in range(30):
            made.observe(torch.tensor([[0.0, score, 0.0]]))
            found.append(made.learnt()["lambda/toxicity"])
        steps = [b > a for a, b in itertools.pairwise(found) if b != a]
        assert steps and set(steps) == {grows}
        assert 0 < found[-1] <= 10.0 + 1e-9 and made(torch.zeros(1, 3)).isfinite().all()


def test_a_hopeless_constraint_does_not_overflow() -> None:
    made = objective(lagrangian())
    for sign in (-1.0, 1.0):
        for _ in range(20):
            made.observe(torch.full((2, 3), sign * 1e6))
    assert made.learnt()["lambda/toxicity"] > 0 and made(torch.zeros(2, 3)).isfinite().all()


def test_dual_ascent_finds_the_constrained_optimum() -> None:
    """Maximise x s.t. y ≥ t on the circle x² + y² = 1, by best response to λ: the optimum has y = t."""
    made = objective(
        lagrangian(constraints=["toxicity"], thresholds=[0.6], objectives=["helpfulness"], step_size=0.05),
        mean=torch.zeros(3), scale=torch.ones(3),
    )  # fmt: skip
    angles = torch.linspace(0, math.pi / 2, 2001)
    points = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=1)
    for _ in range(400):
        best = points[made(points).argmax()][None]
        made.observe(best)
    assert best[0, 1].item() == pytest.approx(0.6, abs=0.01)
    assert made.learnt()["lambda/toxicity"] == pytest.approx(0.6 / 0.8, abs=0.02)  # tan of the angle


# --- weights that change ---


def test_scheduled_weights_are_numpys_interpolation() -> None:
    points = {"toxicity": [[2, 1.0], [5, 4.0], [6, 0.0]], "detail": [[3, 0.5]]}
    made = objective(configured("scheduled", points=points))
    for step, batch in enumerate(batches(9), start=1):
        made.observe(batch)
        z = (batch - made.mean) / made.scale
        factors = [1.0, *(np.interp(step, *zip(*points[name], strict=True)) for name in ("toxicity", "detail"))]
        torch.testing.assert_close(made(batch), (z * torch.tensor(factors, dtype=torch.float32)).sum(1))
        assert made.learnt()["step"] == step and made.learnt()["factor/toxicity"] == pytest.approx(factors[1])


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ({"toxicity": [[5, 1.0], [5, 2.0]]}, r"steps of 'toxicity' are \[5, 5\]"),
        ({"toxicty": [[1, 1.0]]}, "Did you mean 'toxicity'"),
        ({"toxicity": []}, "scalarizer.params.points"),
        ({"toxicity": [[1, -1.0]]}, "scalarizer.params.points"),
    ],
)
def test_mistakes_of_a_schedule(points, says) -> None:
    with pytest.raises(UserError, match=says):
        objective(configured("scheduled", points=points))


def test_hypervolume_weights_are_the_gradient_of_its_logarithm() -> None:
    """By finite differences of Π (m_i + below), at a running mean written out."""
    made = objective(configured("hypervolume", below=1.5, memory=0.6))
    means = torch.zeros(3, dtype=torch.float64)
    for batch in batches(4, size=5):
        batch = batch / 4 + torch.tensor([1.0, -2.0, 0.0])
        made.observe(batch)
        z = ((batch - made.mean) / made.scale).double()
        means = 0.6 * means + 0.4 * z.mean(0)
        m = means.clone().requires_grad_()
        (slope,) = torch.autograd.grad((m + 1.5).prod().log(), m)
        factors = 3 * slope / slope.sum()
        torch.testing.assert_close(made(batch), (z * factors).sum(1).float(), atol=1e-5, rtol=1e-5)
    assert factors.max() > 1.05


def test_a_principle_under_the_reference_point_counts_most_and_has_an_end() -> None:
    made = objective(configured("hypervolume"))
    for _ in range(50):
        made.observe(torch.tensor([[1.0, -1e6, 0.0]]))
    factors = made.learnt()
    assert factors["factor/toxicity"] > 2.8 and sum(
        v for k, v in factors.items() if k[:6] == "factor"
    ) == pytest.approx(3)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"thresholds": [0.1, 0.2]}, "thresholds holds 2 numbers for 1 constraints"),
        ({"constraints": ["toxicity", "toxicity"], "thresholds": [0.0, 0.0]}, "names a principle twice"),
        ({"constraints": [], "thresholds": []}, r"scalarizer.params.constraints of 'lagrangian'"),
        ({"initial": 20.0}, "initial: 20 is above maximum: 10"),
        ({"step_size": 0.0}, "greater than 0"),
        ({"constraints": ["toxicty"]}, "names 'toxicty'.* Did you mean 'toxicity'"),
        ({"objectives": ["honesty"]}, "names 'honesty'"),
    ],
)
def test_mistakes_of_a_lagrangian_are_reported_when_its_principles_are_known(params: dict, says: str) -> None:
    config = preset("scalarizer", "lagrangian")
    with pytest.raises(UserError, match=says):
        resolve(ScalarizerSettings(**config | {"params": config["params"] | params}), NAMES)


def test_a_left_out_principle_cannot_be_a_constraint() -> None:
    with pytest.raises(UserError, match="names 'toxicity', which is not among the principles that count"):
        objective(lagrangian(), weight=torch.tensor([1.0, 0.0, 1.0]))


# --- the state as a whole ---


def stateful_ones() -> list[Objective]:
    learnt = [objective(lagrangian(), normalizer="running"), objective(lagrangian()), objective(normalizer="running")]
    learnt += [objective(configured("scheduled")), objective(configured("hypervolume"))]
    return [*learnt, objective(configured("constrained"), sft_scores=torch.cat(batches(3)))]


@pytest.mark.parametrize("kind", range(6))
def test_a_state_goes_through_json_and_goes_on_bit_for_bit(kind: int) -> None:
    unbroken, killed, resumed = (stateful_ones()[kind] for _ in range(3))
    steps = batches(6)
    for batch in steps[:3]:
        unbroken.observe(batch)
        killed.observe(batch)
    resumed.load_state_dict(json.loads(json.dumps(killed.state_dict())))
    for batch in steps[3:]:
        unbroken.observe(batch)
        resumed.observe(batch)
        assert torch.equal(unbroken(batch), resumed(batch))
    assert unbroken.state_dict() == resumed.state_dict()


def test_asking_moves_nothing() -> None:
    made = stateful_ones()[0]
    before = made.state_dict()
    made(batches(1)[0])
    made.state_dict()["scalarizer"]["lambda"]["toxicity"] = 99.0
    assert made.state_dict() == before
    made.observe(batches(1)[0])
    assert made.state_dict() != before


def test_a_state_does_not_care_about_the_order_of_columns() -> None:
    made, turned = stateful_ones()[0], stateful_ones()[0].select(["detail", "toxicity", "helpfulness"])
    for batch in batches(3):
        made.observe(batch)
        turned.observe(batch.flip(1))
    other = stateful_ones()[0].select(["detail", "toxicity", "helpfulness"])
    other.load_state_dict(made.state_dict())
    torch.testing.assert_close(other(batch.flip(1)), made(batch))
    torch.testing.assert_close(turned(batch.flip(1)), made(batch))


@pytest.mark.parametrize(("to", "of"), [(0, 1), (1, 0), (2, 1), (1, 2)])
def test_a_state_of_another_objective_is_refused(to: int, of: int) -> None:
    with pytest.raises(UserError, match="the stored state has"):
        stateful_ones()[to].load_state_dict(stateful_ones()[of].state_dict())
    with pytest.raises(UserError, match="keep nothing"):
        objective().load_state_dict(stateful_ones()[of].state_dict())


def test_observing_is_free_of_gradients_and_refuses_what_is_not_finite() -> None:
    made = stateful_ones()[0]
    scores = batches(1)[0].requires_grad_()
    made.observe(scores)
    made(scores).sum().backward()
    assert scores.grad.isfinite().all()
    bad = batches(1)[0]
    bad[0, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        made.observe(bad)


def test_an_objective_without_a_state_learns_nothing() -> None:
    made = objective()
    made.observe(batches(1)[0])
    assert not made.stateful and made.learnt() == {} and made.state_dict() == {"normalizer": {}, "scalarizer": {}}


# --- a user's own ---

OWN = '''
from morlaif.scalarize.registry import stateful

def start(*, names, goal: float):
    return {"worst": {name: goal for name in names}, "steps": 0}

def update(rewards, *, rate: float = 0.5, names, state):
    means = dict(zip(names, rewards.mean(0).tolist()))
    worst = {name: old + rate * (means[name] - old) for name, old in state["worst"].items()}
    return {"worst": worst, "steps": state["steps"] + 1}

@stateful(start=start, update=update)
def laggard(rewards, *, names, state):
    """The principle that has been worst of late."""
    return rewards[:, names.index(min(state["worst"], key=state["worst"].get))]

def tensor_start():
    import torch
    return {"mean": torch.zeros(1)}

@stateful(start=tensor_start, update=lambda rewards, *, state: state)
def tensors(rewards, *, state):
    return rewards.sum(1)

def forgot(rewards, *, state):
    return rewards.sum(1)

def whole(rewards):
    return rewards.sum()
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_rules.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def own(name: str, **params):
        return resolve(ScalarizerSettings(name=name, function=f"own_rules.{name}", params=params), NAMES)

    return own


def test_a_stateful_function_of_the_user(own) -> None:
    made = objective(own("laggard", goal=0.0), mean=torch.zeros(3), scale=torch.ones(3))
    made.observe(torch.tensor([[1.0, -4.0, 0.0]]))
    assert made(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [2.0]
    made.observe(torch.tensor([[-9.0, 4.0, 0.0]]))
    assert made(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [1.0]
    assert made.learnt() == {"worst/helpfulness": -4.25, "worst/toxicity": 1.0, "worst/detail": 0.0, "steps": 2.0}
    again = objective(own("laggard", goal=5.0, rate=0.1))
    again.load_state_dict(json.loads(json.dumps(made.state_dict())))
    assert again.state_dict() == made.state_dict()


def test_mistakes_of_a_stateful_function_are_reported(own) -> None:
    with pytest.raises(UserError, match="goal is missing"):
        own("laggard")
    with pytest.raises(UserError, match="Did you mean 'goal'"):
        own("laggard", goal=1.0, gaol=2.0)
    with pytest.raises(UserError, match="state of scalarizer 'tensors' is no JSON"):
        own("tensors")
    with pytest.raises(UserError, match="decorate it with"):
        own("forgot")


def test_a_function_that_reduces_over_the_batch_is_caught(own) -> None:
    """Sums over rows give one number for all of them: every response would get the same reward."""
    with pytest.raises(UserError, match=r"'whole' gave a value of shape \(\) for 8 responses"):
        objective(own("whole"))(batches(1)[0])
