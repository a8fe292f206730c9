"""Arms where they stood on their way: means over seeds, and which policies compare at an equal KL."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest
from scipy import stats

from morlaif.evaluation.results import Estimate, KeptPolicy, Rate
from morlaif.report.comparison.kept import at_equal_kl, beyond_peak, gold_and_proxy, kept_path


def kept(step: int, kl: float | None, rate: float) -> KeptPolicy:
    return KeptPolicy(step, kl, None, None, Rate(rate, rate - 0.1, rate + 0.1, 50, rate, 0.0, 1 - rate, 0.0, 0), 20.0)


def arm(name: str, *seeds: list[KeptPolicy]) -> SimpleNamespace:
    policies = [
        SimpleNamespace(name=name, run=SimpleNamespace(details=SimpleNamespace(kept={name: own}))) for own in seeds
    ]
    return SimpleNamespace(cell=SimpleNamespace(label=name), colour=0, policies=policies)


def test_a_step_is_the_mean_over_seeds() -> None:
    path = kept_path(arm("a", [kept(2, 1.0, 0.5), kept(4, 3.0, 0.7)], [kept(2, 2.0, 0.6), kept(4, 5.0, 0.9)]), 0.95)
    assert [(one.step, one.kl, round(one.win_rate.value or 0, 6)) for one in path] == [(2, 1.5, 0.55), (4, 4.0, 0.8)]
    assert kept_path(arm("a", [kept(2, None, 0.5)]), 0.95) == []


def test_arms_are_compared_at_the_kl_that_all_came_to() -> None:
    far = arm("far", [kept(2, 2.0, 0.6), kept(4, 6.0, 0.8), kept(6, 12.0, 0.7)])
    near = arm("near", [kept(2, 1.0, 0.55), kept(4, 5.0, 0.75)])
    found = at_equal_kl(SimpleNamespace(trained=[far, near, arm("none")], confidence=0.95))
    assert [(one.label, one.step, one.kl) for one in found] == [("far", 4, 6.0), ("near", 4, 5.0)]
    assert at_equal_kl(SimpleNamespace(trained=[far, arm("none")], confidence=0.95)) == []


def gained(step: int, kl: float, proxy: float, gold: float | None, rate: float = 0.5) -> KeptPolicy:
    def estimate(value: float) -> Estimate:
        return Estimate(value, value - 0.1, value + 0.1, 50)

    return replace(
        kept(step, kl, rate), proxy=estimate(proxy), gold=None if gold is None else estimate(gold)
    )  # fmt: skip


HACKED = [  # gold is highest at the second of the three steps, by the mean of seeds; not so by the third seed alone
    [gained(2, 1.0, 1.0, 0.5), gained(4, 4.0, 2.0, 1.0), gained(6, 9.0, 3.0, 0.4)],
    [gained(2, 1.0, 1.2, 0.6), gained(4, 4.0, 2.2, 1.2), gained(6, 9.0, 3.6, 0.2)],
    [gained(2, 1.0, 0.8, 0.9), gained(4, 4.0, 1.8, 0.8), gained(6, 9.0, 2.8, 0.6)],
]


def test_the_fall_past_the_peak_is_measured_on_seeds_that_did_not_choose_it() -> None:
    found = beyond_peak(arm("a", *HACKED), 0.95)
    assert found is not None and found["gold"] is not None and found["proxy"] is not None
    falls, rises = [0.4 - 1.0, 0.2 - 1.2, 0.6 - 0.8], [1.0, 1.4, 1.0]
    assert found["gold"].value == pytest.approx(fmean(falls)) and found["proxy"].value == pytest.approx(fmean(rises))
    half = stats.t.ppf(0.975, 2) * stdev(falls) / 3**0.5
    assert (found["gold"].low, found["gold"].high) == pytest.approx((fmean(falls) - half, fmean(falls) + half))
    assert beyond_peak(arm("a", HACKED[0]), 0.95) is None, "one seed has nothing to choose the peak by"


def test_gold_and_proxy_are_drawn_over_the_root_of_the_kl() -> None:
    chart = gold_and_proxy(SimpleNamespace(trained=[arm("a", *HACKED), arm("none")], confidence=0.95))
    assert chart is not None and [panel.title for panel in chart.panels] == [
        "proxy: gain of the objective", "gold: gain of the hidden utility",
    ]  # fmt: skip
    proxy, gold = (panel.lines[0] for panel in chart.panels)
    assert list(proxy.x) == list(gold.x) == [0.0, 1.0, 2.0, 3.0]
    assert list(proxy.y) == pytest.approx([0.0, 1.0, 2.0, 9.4 / 3]) and list(gold.y) == pytest.approx(
        [0, 2 / 3, 1, 0.4]
    )
    half = stats.t.ppf(0.975, 2) * stdev([1.0, 1.2, 0.8]) / 3**0.5
    assert list(gold.low or [])[2] == pytest.approx(1.0 - half) and list(gold.high or [])[2] == pytest.approx(
        1.0 + half
    )


def test_where_no_utility_is_known_gold_is_the_win_rate() -> None:
    own = [gained(2, 1.0, 1.0, None, 0.7), gained(4, 4.0, 2.0, None, 0.6)]
    chart = gold_and_proxy(SimpleNamespace(trained=[arm("a", own)], confidence=0.95))
    assert chart is not None and chart.panels[1].title == "gold: win rate over SFT"
    assert list(chart.panels[1].lines[0].y) == [0.5, 0.7, 0.6] and chart.panels[1].mark == 0.5
    assert gold_and_proxy(SimpleNamespace(trained=[arm("none")], confidence=0.95)) is None
