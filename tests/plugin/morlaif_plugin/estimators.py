"""An advantage estimator: each reward against a quantile of the rewards of its group."""

from __future__ import annotations

from morlaif.rl.advantages import Estimate, Trajectories, estimator
from morlaif.settings import Probability


@estimator(grouped=True)
def against_quantile(t: Trajectories, *, quantile: Probability) -> Estimate:
    """0.5 is the median, which one response that is far off does not move."""
    baseline = t.totals.quantile(quantile, dim=1, keepdim=True)
    return t.spread(t.totals - baseline), None
