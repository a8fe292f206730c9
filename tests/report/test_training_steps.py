"""What the page says of training: quantiles of histograms, lines that stay short, sentences on what is unhealthy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.report.steps import quantiles
from morlaif.report.training import POINTS, thinned
from morlaif.rl.health import LEAST, SIGNS, findings


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), st.floats(0.01, 0.99))
def test_quantiles_are_those_of_values_spread_evenly_in_each_bin(counts, share):
    edges = np.cumsum([0.0, *[1.0 + i % 3 for i in range(len(counts))]])
    (found,) = quantiles({"edges": edges.tolist(), "counts": counts}, [share])
    reached = np.concatenate([[0.0], np.cumsum(counts) / sum(counts)])
    assert np.interp(found, edges, reached) == pytest.approx(share, abs=1e-9)


@given(st.integers(1, 5000))
def test_athinned_line_is_short_and_keeps_its_end(size):
    kept = thinned(list(range(size)))
    assert len(kept) <= POINTS and kept[-1] == size - 1 and kept == sorted(set(kept))


HEALTHY = {
    "approx_kl_k3": 0.004, "clip_fraction": 0.1, "ratio_max": 2.0, "entropy": 2.0, "grad_norm": 1.0, "stopped": 0.0,
    "explained_variance": 0.4, "value_clip_fraction": 0.1, "reward_clipped": 0.0, "sampler/kl_k3": 1e-4,
    "advantage_cosine/a": 0.5, "advantage_cosine/b_c": 0.4, "variance_share/a": 0.6, "variance_share/b_c": 0.4,
}  # fmt: skip
SICK = {
    "approx_kl_k3": 0.2, "clip_fraction": 0.5, "ratio_max": 50.0, "entropy": 0.1, "explained_variance": -2.0,
    "value_clip_fraction": 0.8, "reward_clipped": 0.3, "sampler/kl_k3": 0.1, "advantage_cosine/b_c": -0.5,
    "variance_share/b_c": 0.95,
}  # fmt: skip


def curve(**last: float) -> list[dict[str, float]]:
    """Nine steps, the last three with other numbers; who decides moves a little, as it does under a minimum."""
    return [
        HEALTHY | {"decides/a": 0.5 + 0.01 * step, "decides/b_c": 0.5 - 0.01 * step} | (last if step >= 6 else {})
        for step in range(9)
    ]


def test_a_healthy_curve_has_no_finding():
    assert findings(curve()) == [] == findings([])
    assert findings(curve(**SICK)[-LEAST + 1 :]) == []


@pytest.mark.parametrize("key", SICK)
def test_each_sign_has_its_sentence_and_what_helps(key):
    (sentence,) = findings(curve(**{key: SICK[key]}))
    assert (
        ". What usually helps: " in sentence
        and (sentence[0].isupper() or sentence[0].isdigit())
        and sentence.endswith(".")
    )
    assert "{" not in sentence and ("b c" in sentence) == key.endswith("/b_c")


def test_a_spike_and_one_principle_that_decides():
    rows = curve()
    rows[1] = rows[1] | {"grad_norm": 30.0}
    assert "30 times its median" in findings(rows)[0]
    alone = [row | {"decides/a": 0.9 + 0.001 * step} for step, row in enumerate(rows)]
    assert any("91% is decided by a alone" in sentence for sentence in findings(alone))
    chosen = [
        row | {"decides/a": 0.95, "decides/b_c": 0.05} for row in curve()
    ]  # weights of a sum: the settings' choice
    assert findings(chosen) == []


def test_what_was_sick_and_recovered_is_not_a_finding():
    assert findings(list(reversed(curve(approx_kl_k3=0.2, explained_variance=-9.0)))) == []


def test_every_key_that_helps_is_a_key():
    from morlaif.presets import preset

    known = {"ppo": preset("ppo", "paper"), "weights": {"normalizer": 0}, "hardware": {"dtype": 0}}
    for sign in SIGNS:
        for word in sign.helps.replace("=", " ").replace(",", " ").split():
            group, _, path = word.partition(".")
            place = known.get(group)
            for name in path.split(".") if place is not None and path else ():
                place = place[name]
