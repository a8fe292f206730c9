"""Arms where they stood on their way: means over seeds, and which policies compare at an equal KL."""

from __future__ import annotations

from types import SimpleNamespace

from morlaif.evaluation.results import KeptPolicy, Rate
from morlaif.report.comparison.more_figures import at_equal_kl, kept_path


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
