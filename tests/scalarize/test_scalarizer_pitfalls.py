"""What is known to go wrong when scores of many models are combined, and does not here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from morlaif import presets
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.scalarize.weights import frozen_statistics, regress, signed, unit

CONF = Path(__file__).parents[2] / "conf" / "scalarizer"
SEVEN = (
    "linear", "max_min", "soft_max_min", "uncertainty_weighted", "lower_quantile", "max_median", "bernoulli_nash",
)  # fmt: skip
NAMES = ("helpfulness", "toxicity", "sycophancy", "detail")


def preset(name: str):
    return resolve(ScalarizerSettings(**presets.preset("scalarizer", name)))


def objective(name: str, raw: torch.Tensor, weights: np.ndarray | None = None) -> Objective:
    """On frozen statistics of `raw` itself; `weights` signed."""
    mean, scale = frozen_statistics(raw.double().numpy(), NAMES)
    direction, weight = signed(np.ones(4) if weights is None else weights, NAMES, [])
    vectors = (torch.tensor(vector, dtype=torch.float32) for vector in (mean, scale, direction, weight))
    return Objective(NAMES, *vectors, preset(name), responses=len(raw))


def scores(rows: int = 60) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SEVEN)
def test_one_reward_a_response_whatever_is_beside_it(name: str) -> None:
    """No reduction over the batch, with a batch of one too."""
    raw = scores()
    made = objective(name, raw)
    whole = made(raw)
    assert whole.shape == (60,) and len(set(whole.tolist())) == 60
    for i in (0, 17, 59):
        assert made(raw[i : i + 1]).shape == (1,)
        torch.testing.assert_close(made(raw[i : i + 1]), whole[i : i + 1])
        torch.testing.assert_close(made(raw[[i, 3, 40]])[0], whole[i])


def test_two_bad_scores_do_not_make_a_good_product() -> None:
    made = objective("bernoulli_nash", scores())
    unit_scores = torch.tensor([[-2.0, -2.0, 0.0, 0.0], [0.0] * 4, [2.0, 2.0, 0.0, 0.0]])
    bad, neutral, good = made.combine(unit_scores).tolist()
    assert bad < neutral < good
    signed_products = [row.prod().item() for row in unit_scores[:, :2]]
    assert signed_products[0] == signed_products[2] > signed_products[1]  # what multiplying signed scores says


@pytest.mark.parametrize("name", SEVEN)
def test_where_a_model_puts_its_zero_and_its_unit_does_not_matter(name: str) -> None:
    """A preference model is defined up to a constant: an uncentred one would rule a minimum, or never be heard."""
    raw = scores()
    moved = raw * torch.tensor([1.0, 9.0, 0.2, 1.0]) + torch.tensor([50.0, -7.0, 0.0, 3.0])
    torch.testing.assert_close(objective(name, moved)(moved), objective(name, raw)(raw), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["max_min", "max_median", "bernoulli_nash", "lower_quantile", "linear"])
def test_a_negative_weight_flips_the_score(name: str) -> None:
    """More flattery is worse under each of them, and never better in the company of other bad scores."""
    raw = scores()
    made = objective(name, raw, np.array([1.0, 1.0, -1.0, 1.0]))
    more = raw.clone()
    more[:, 2] += 1.0
    change = made(more) - made(raw)
    assert (change <= 1e-6).all() and (change < -1e-4).any()


def test_regressed_weights_rank_as_the_regression_does_though_models_differ_in_unit() -> None:
    """Coefficients are fitted on raw differences and used on normalised scores: they must be converted."""
    rng = np.random.default_rng(0)
    deviation = np.array([0.1, 1.0, 5.0, 20.0])
    wanted = np.array([1.0, 0.5, -0.7, 0.2]) / deviation
    raw = rng.normal(size=(4000, 4)) * deviation + rng.normal(size=4) * 10
    difference = raw[:2000] - raw[2000:]
    label = (rng.random(2000) < expit(difference @ wanted)).astype(float)
    fit = regress(difference, label, NAMES)
    weights = np.array(fit.raw) * unit(np.array(fit.raw), raw.std(0), NAMES, [])
    made = objective("linear", torch.tensor(raw), weights)
    utility = raw @ np.array(fit.raw)
    found = made(torch.tensor(raw)).numpy()
    assert np.corrcoef(found, utility)[0, 1] == pytest.approx(1.0, abs=1e-5)
    misapplied = made.combine(torch.tensor((raw - raw.mean(0)) / raw.std(0)) * torch.tensor(1 / deviation)).numpy()
    assert np.corrcoef(misapplied, utility)[0, 1] < 0.9  # coefficients of one scale applied to scores of another
