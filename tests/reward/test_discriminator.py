"""A discriminator of demonstrations against samples, and rewards that take over from one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from composed import config
from scipy.optimize import minimize

from morlaif.errors import UserError
from morlaif.planning.plan import plan
from morlaif.presets import preset
from morlaif.reward.discriminator import DiscriminatorScores, fit
from morlaif.reward.settings import DiscriminatorReward
from morlaif.reward.sources import FunctionScores, Learning, SideBySide


def two_clouds(n: int, m: int, apart: float, width: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator) + apart, torch.randn(m, width, generator=generator)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (12, 70)])
def test_the_fit_is_the_minimum_that_scipy_finds(n, m):
    real, made = two_clouds(n, m, 0.7)
    found, ridge = fit(real, made, 0.05), 0.05
    x = torch.cat([real, made]).double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    sign = np.r_[np.ones(n), -np.ones(m)]
    each = np.r_[np.full(n, 0.5 / n), np.full(m, 0.5 / m)]

    def loss(solution: np.ndarray) -> float:
        margin = sign * (x @ solution[:-1] + solution[-1])
        return float((each * np.logaddexp(0, -margin)).sum() + ridge / 2 * (solution[:-1] ** 2).sum())

    best = minimize(loss, np.zeros(4), tol=1e-12).x
    assert np.allclose([*found.weight.tolist(), found.bias.item()], best, atol=1e-4)


def test_exchanging_the_two_turns_the_sign():
    real, made = two_clouds(30, 30, 1.0)
    other = torch.randn(5, 3)
    assert torch.allclose(fit(real, made, 0.1).log_odds(other), -fit(made, real, 0.1).log_odds(other), atol=1e-6)


def test_what_can_be_told_apart_is_and_the_ridge_bounds_it():
    real, made = two_clouds(20, 20, 20.0)
    found = fit(real, made, 0.01)
    assert (found.log_odds(real) > 0).all() and (found.log_odds(made) < 0).all()
    assert fit(real, made, 1.0).log_odds(real).mean() < found.log_odds(real).mean() < 20


def lengths(prompts, texts) -> torch.Tensor:
    return torch.tensor([[float(len(text)), 1.0] for text in texts])


def scores(**changes) -> DiscriminatorScores:
    settings = DiscriminatorReward(**preset("reward", "discriminator", **changes))
    return DiscriminatorScores(("demonstration",), settings, lengths, [[], []], ["long text", "another one"])


def test_it_learns_from_the_latest_samples_every_few_steps():
    source = scores(every=2, recent=3)
    assert isinstance(source, Learning)
    first = source([[], []], ["a", "bb"])
    assert torch.equal(source([[], []], ["a", "bb"]), first) and first.shape == (2, 1)
    source.observe([[], []], ["far longer than both of them", "far longer than both of them, too"])
    assert torch.equal(source([[], []], ["a", "bb"]), first)  # one step is not two
    source.observe([[], []], ["far longer than all of them", "and once again, far longer"])
    assert (source([[], []], ["a", "bb"]) > first).all()  # what is short is no longer what the policy does


def test_its_state_is_taken_up_by_another_to_the_bit():
    source, other = scores(every=1), scores(every=1)
    source([[], []], ["a", "bb"])
    source.observe([[], []], ["cc", "ddd"])
    both = SideBySide([source, FunctionScores(("length",), lambda p, r: [1.0] * len(r), "here")])
    twin = SideBySide([other, FunctionScores(("length",), lambda p, r: [1.0] * len(r), "here")])
    twin.load_state_dict(both.state_dict())
    for each in (both, twin):
        each.observe([[]], ["eeee"])
    assert torch.equal(both([[]], ["f"]), twin([[]], ["f"]))


def test_without_demonstrations_it_says_so():
    settings = DiscriminatorReward(**preset("reward", "discriminator"))
    with pytest.raises(UserError, match="no demonstrations"):
        DiscriminatorScores(("demonstration",), settings, lengths, [], [])


SMALL = ("experiment=smoke", "principles.count=2", "reward=mixture")


@pytest.mark.slow
def test_a_schedule_of_a_mixture_moves_the_weights_of_its_columns():
    points = "reward.schedule={length: [[1, 0], [5, 1]], models: [[5, 1], [6, 0]]}"
    units = {unit.name: unit for unit in plan(config(*SMALL, points, "arms.select=[morlaif]")).units}
    made = units["ppo/morlaif"].reads
    assert made.scalarizer.name == "scheduled"
    assert made.scalarizer.params["points"] == {
        "helpfulness": [(5, 1.0), (6, 0.0)], "ethicality": [(5, 1.0), (6, 0.0)], "length": [(1, 0.0), (5, 1.0)],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("reward.schedule={length: [[1, 0]]}", "scalarizer=max_min"), "use scalarizer=linear"),
        (("reward.schedule={length: [[5, 0], [1, 1]]}",), "each must be above the last"),
        (("reward.schedule={lenght: [[1, 0]]}",), "no part 'lenght'"),
    ],
)
def test_a_schedule_that_means_nothing_is_refused_before_anything_is_built(overrides, words):
    with pytest.raises(UserError, match=words):
        plan(config(*SMALL, *overrides, "arms.select=[morlaif]"))
