from __future__ import annotations

import math

import numpy as np
import pytest
from feedback_cases import make_pairs

from morlaif.data.records import save_pairs
from morlaif.feedback.aggregate import label_report
from morlaif.feedback.chunks import PairChunks, Verdicts, write_verdicts
from morlaif.feedback.quality import LabelTally, audit_of, between, halo, kappa, length_bias
from morlaif.feedback.records import Verdict, load_verdicts

NAN = math.nan


def test_kappa_by_hand():
    # 20 + 15 agreements of 50; chance ½·(25·30 + 25·20)/50² … (Cohen's own arithmetic): κ = (.7 − .5)/(1 − .5) = .4
    a = np.array([0.9] * 25 + [0.1] * 25)
    b = np.array([1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15)
    found = kappa(a, b)
    assert found.value == pytest.approx(0.4) and found.n == 50
    assert 0.1 < found.low < 0.4 < found.high < 0.7
    assert kappa(np.array([0.5, NAN]), np.array([1.0, 1.0])).n == 0  # nobody takes a side
    assert kappa(a, 1 - a).value == pytest.approx(-1.0)


def test_length_bias_by_hand():
    found = length_bias(np.array([0.9, 0.8, 0.3, 0.2, 0.7]), np.array([10.0, 5.0, -3.0, 8.0, 0.0]))
    assert found["prefers_longer"]["value"] == pytest.approx(3 / 4) and found["prefers_longer"]["n"] == 4
    assert length_bias(np.zeros(0), np.zeros(0))["correlation"] is None


def test_matrices_between_principles():
    x = np.array([0.9, 0.8, 0.1, 0.3, NAN])
    found = between({"a": x, "b": 1 - x, "c": np.array([0.9, 0.2, 0.2, 0.4, 0.6])}, np.array([1.0, 1, 0, 0, 1]))
    assert found["names"] == ["a", "b", "c"]
    assert found["agreement"][0] == [1.0, 0.0, pytest.approx(0.75)]
    assert found["correlation"][0][1] == pytest.approx(-1.0)
    assert found["human"]["a"]["agreement"]["value"] == 1.0 and found["human"]["a"]["kappa"]["value"] == 1.0
    assert found["human"]["b"]["kappa"]["n"] == 4


def test_halo_is_the_correlation_that_asking_together_adds():
    rng = np.random.default_rng(0)
    apart = {name: rng.uniform(size=400) for name in "abc"}
    common = rng.uniform(size=400)
    together = {name: 0.5 * p + 0.5 * common for name, p in apart.items()}
    found = halo(together, apart)
    assert found["pairs"] == 400 and abs(found["correlation_separate"]) < 0.1
    assert found["halo"] == pytest.approx(0.5, abs=0.1)
    assert 0.5 < found["same_side"]["value"] < 0.9


def test_an_audit_takes_its_share_by_identity():
    table = PairChunks.of(make_pairs(400))
    chosen = [pair.id for pair in audit_of(table, 0.1)]
    assert 20 <= len(chosen) <= 60
    assert set(chosen) <= {pair.id for pair in audit_of(table, 0.3)}
    assert audit_of(table, 0.0) is None


def test_the_report_on_all_principles_comes_from_their_artifacts(tmp_path):
    pairs = make_pairs(5)
    save_pairs(tmp_path / "respond", {"train": pairs, "eval": []})
    table = PairChunks.open(tmp_path / "respond", "train")
    assert list(table) == pairs and len(table) == 5 and len(PairChunks.open(tmp_path / "respond", "eval")) == 0
    for name, shift in (("a", 0.1), ("b", -0.1)):
        rows = [Verdict(p.id, 0.5 + shift * (i + 1), 0.0, True, "x", usd=0.5) for i, p in enumerate(pairs[:4])]
        rows.append(Verdict.invalid(pairs[4].id, "x", "refusal"))
        tally = LabelTally()
        parts = tally.passing(table, iter([Verdicts.of("x", rows)]))
        write_verdicts(tmp_path / name, {"train": parts, "eval": []})
        assert load_verdicts(tmp_path / name, "train")[4].reason == "refusal"
        assert [v.p_first for v in load_verdicts(tmp_path / name, "train")][:4] == [v.p_first for v in rows[:4]]
        measured = tally.measure()
        import json

        text = json.dumps({"train": measured, "eval": LabelTally().measure()}, allow_nan=False)
        (tmp_path / name / "quality.json").write_text(text)
    found = label_report({name: tmp_path / name for name in "ab"}, tmp_path / "respond", "train")
    assert found["correlation"][0][1] == pytest.approx(-1.0) and found["agreement"][0][1] == 0.0
    assert found["cost"] == {n: {"input_tokens": 0.0, "output_tokens": 0.0, "usd": 2.0} for n in "ab"}
    assert found["halo"] is None and found["human"]["a"]["kappa"]["n"] == 4
