"""A KL that is a bound is called so wherever it is shown."""

from __future__ import annotations

from morlaif.evaluation.aggregate import Aggregate, Cell, SeedEstimate, Standing
from morlaif.report.comparison.standings import leaderboard


def test_a_leaderboard_marks_a_kl_that_is_a_bound():
    cells = [Cell(f"m/{name}", name, name, {}, {"0": f"m/{name}"}) for name in "ab"]
    found = [
        SeedEstimate(
            value=2.079, low=None, high=None, n=0, cell=cell.key, label=cell.label, arm=cell.arm, setting={},
            measure="kl", seeds=1, method="none", by_seed={}, bound=cell.label == "a",
        )
        for cell in cells
    ]  # fmt: skip
    heads, rows = leaderboard(Aggregate(0.95, cells, found, [], [Standing(c.key, 1, 2, None) for c in cells]))
    at = heads.index("KL, nats")
    assert [row[at] for row in rows] == ["2.08 (bound)", "2.08"]
