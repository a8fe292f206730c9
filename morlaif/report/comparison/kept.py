"""Arms where they stood on their way: what they are trained on and what it stands for, over their distance from SFT.

The figure of over-optimisation (Gao et al., 2210.10760; with ensembles Coste et al., 2310.02743). Gold is the hidden
utility of the toy world, elsewhere the win rate by the comparison's judge, which may be a preference model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from morlaif.evaluation.results import Estimate, KeptPolicy
from morlaif.report.comparison.charts import Chart, Dots, Line, Lines, LinesPanel, Point, Series
from morlaif.report.comparison.data import Arm, ComparedRuns, mean_of
from morlaif.report.comparison.figures import PLAIN

ROOT = "√KL to SFT, √nats"


@dataclass(frozen=True)
class OnTheWay:
    """Where an arm stood after a step: means over the seeds that were kept there."""

    label: str
    colour: int
    step: int
    kl: float
    win_rate: Estimate
    proxy: Estimate | None
    gold: Estimate | None  # of the hidden utility; None where nobody knows it


def kept_path(arm: Arm, confidence: float) -> list[OnTheWay]:
    """The policies that an arm kept on its way, and at its end, in the order of their steps."""
    found: dict[int, list[KeptPolicy]] = {}
    for own in _by_seed(arm):
        for step, one in own.items():
            found.setdefault(step, []).append(one)
    path = []
    for step, seeds in sorted(found.items()):
        kl = mean_of([Estimate(one.kl, None, None, 1) for one in seeds], confidence)
        rate = mean_of([one.win_rate for one in seeds], confidence, share=True)
        if kl is None or kl.value is None or rate is None or rate.value is None:
            continue
        proxy, gold = (mean_of([getattr(one, key) for one in seeds], confidence) for key in ("proxy", "gold"))
        path.append(OnTheWay(arm.cell.label, arm.colour, step, kl.value, rate, proxy, gold))
    return path


def at_equal_kl(data: ComparedRuns) -> list[OnTheWay]:
    """Of each arm the kept policy nearest to the KL that all of them came to; none where not all arms kept any."""
    paths = [kept_path(arm, data.confidence) for arm in data.trained]
    paths = [path for path in paths if path]
    if len(paths) < 2:
        return []
    common = min(max(one.kl for one in path) for path in paths)
    return [min(path, key=lambda one: abs(one.kl - common)) for path in paths]


def gold_and_proxy(data: ComparedRuns) -> Chart | None:
    """What each arm gained in its own objective and in what that stands for, over √KL."""
    paths = [path for arm in data.trained if len(path := kept_path(arm, data.confidence)) > 1]
    if not paths:
        return None
    known = all(one.gold for path in paths for one in path)
    proxies = [line for path in paths if (line := _line(path, {one.step: one.proxy for one in path}, 0.0))]
    gold = {path[0].label: {one.step: one.gold if known else one.win_rate for one in path} for path in paths}
    golds = [line for path in paths if (line := _line(path, gold[path[0].label], 0.0 if known else 0.5))]
    panels = [LinesPanel("proxy: gain of the objective", proxies, 0.0)] if proxies else []
    title = "gold: gain of the hidden utility" if known else "gold: win rate over SFT"
    several = any(len(arm.policies) > 1 for arm in data.trained)
    return Lines(
        "gold_and_proxy", "Gold against proxy",
        "What policies that each arm kept on its way gained over SFT on held-out prompts: in the objective that they "
        "are trained on, each in its own unit, and in what that stands for. Where the first still rises and the "
        "second falls, the objective is over-optimised. Lines follow the steps. "
        + ("Points are means over seeds, with intervals over seeds." if several else
           "Intervals are over prompts: there is one seed."),
        [*panels, LinesPanel(title, golds, 0.0 if known else 0.5)], ROOT, "number", columns=2, integers=False,
    )  # fmt: skip


def past_the_peak(data: ComparedRuns) -> Chart | None:
    """What came after the step at which gold was highest; None without several seeds."""
    found = [(arm, one) for arm in data.trained if (one := beyond_peak(arm, data.confidence))]
    if not found:
        return None
    names = ("gold", "proxy")
    series = [Series(name, [Point.of(one[name]) for _, one in found], PLAIN - k) for k, name in enumerate(names)]
    return Dots(
        "past_the_peak", "Past the peak of gold",
        "How gold and proxy changed from the step at which gold was highest to the last one. That step is each seed’s "
        "by the mean of the other seeds, so that no chance maximum is compared with; lines are intervals over seeds. "
        "Gold below zero: too far. Units as in the figure of gold against proxy.",
        [arm.cell.label for arm, _ in found], series, "change from the peak to the end", "number", 0.0,
    )  # fmt: skip


def beyond_peak(arm: Arm, confidence: float) -> dict[str, Estimate | None] | None:
    """Changes of `gold` and `proxy` from the peak of the other seeds' mean gold to the last step; over seeds.

    A maximum that is chosen and measured on the same numbers flatters the peak; left-out seeds do not. The changes
    share seeds, so that an interval over them is somewhat too narrow.
    """
    seeds = [{step: one for step, one in own.items() if _gold(one) is not None} for own in _by_seed(arm)]
    steps = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if len(seeds) < 2 or len(steps) < 2:
        return None
    changes: dict[str, list[Estimate]] = {"gold": [], "proxy": []}
    for k, own in enumerate(seeds):
        others = [seed for i, seed in enumerate(seeds) if i != k]
        peak = max(steps, key=lambda step: fmean(_gold(seed[step]) or 0.0 for seed in others))
        first, last = own[peak], own[steps[-1]]
        pairs = {"gold": (_gold(first), _gold(last)), "proxy": (_value(first.proxy), _value(last.proxy))}
        for name, (before, after) in pairs.items():
            if before is not None and after is not None:
                changes[name].append(Estimate(after - before, None, None, 1))
    return {name: mean_of(own, confidence) for name, own in changes.items()}


def _by_seed(arm: Arm) -> list[Mapping[int, KeptPolicy]]:
    """Of each seed that kept any: its policies by their steps."""
    kept = [policy.run.details.kept.get(policy.name, ()) for policy in arm.policies]
    return [{one.step: one for one in own} for own in kept if own]


def _gold(one: KeptPolicy) -> float | None:
    return _value(one.win_rate if one.gold is None else one.gold)


def _value(found: Estimate | None) -> float | None:
    return None if found is None else found.value


def _line(path: list[OnTheWay], values: Mapping[int, Estimate | None], start: float) -> Line | None:
    """From the SFT policy, which has gained nothing, over √KL; None where a value is missing."""
    points = [(max(one.kl, 0.0) ** 0.5, Point.of(values[one.step])) for one in path]
    known = [(x, point) for x, point in points if point]
    if len(known) < len(points):
        return None
    line = Line(
        path[0].label, [0.0, *(x for x, _ in known)], [start, *(p.value for _, p in known)], path[0].colour, marked=True
    )
    low, high = ([getattr(p, side) for _, p in known] for side in ("low", "high"))
    if None in low or None in high:
        return line
    return replace(line, low=[start, *low], high=[start, *high])
