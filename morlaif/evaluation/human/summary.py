"""Who wins by the raters' answers, how far raters agree with one another and with themselves, and who did not read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from morlaif.evaluation.human.answers import RaterAnswer, Ratings
from morlaif.feedback.quality import kappa
from morlaif.statistics import (
    NOTHING,
    Array,
    Interval,
    accuracy,
    bootstrap_mean,
    krippendorff_alpha,
    percentiles,
    wilson,
)
from morlaif.statistics import agreement as agreement_of

FLIPPED = {"a": "b", "tie": "tie", "b": "a"}
LEVELS: tuple[Literal["nominal", "ordinal"], ...] = ("nominal", "ordinal")


@dataclass(frozen=True, slots=True)
class RaterSummary:
    """One rater's care; `name` stays with the researcher."""

    name: str
    answers: int
    checks: int  # known pairs answered
    failed: int  # of them, answered wrong or with a tie
    kept: bool
    seconds: float  # median over all answers


def raters_of(ratings: Ratings, key: Mapping[str, Any], max_failed: float) -> list[RaterSummary]:
    """In the order of their names. Whoever fails more than `max_failed` of the known pairs is not kept."""
    return [_rater(name, ratings[name], key["items"], max_failed) for name in sorted(ratings, key=str.casefold)]


def _rater(name: str, own: Mapping[str, RaterAnswer], items: Mapping[str, Any], max_failed: float) -> RaterSummary:
    known = [rating for rating in own.values() if items[rating.item]["kind"] == "check"]
    failed = sum(rating.answer == "tie" or items[rating.item][rating.answer] != "on_topic" for rating in known)
    kept = not known or failed / len(known) <= max_failed
    return RaterSummary(name, len(own), len(known), failed, kept, median(rating.seconds for rating in own.values()))


def summarise(
    ratings: Ratings,
    raters: Sequence[RaterSummary],
    key: Mapping[str, Any],
    *,
    resamples: int,
    confidence: float,
    judged: Mapping[str, Mapping[str, float | None]] | None = None,
) -> dict[str, Any]:
    """human.json: comparisons, agreement and care of the raters that are kept, under numbers instead of names.

    `judged`: by comparison and prompt, the judge's outcome of the first policy; each comparison then says how far the
    judge agrees with the raters.

    A prompt is the unit: its share of wins is that of its raters, and intervals are bootstrapped over prompts. Prompts
    that both policies answered with the same text count as ties. Repeats count for consistency alone.
    """
    how = {"seed": key["seed"], "resamples": resamples, "confidence": confidence}
    kept = {rater.name: ratings[rater.name] for rater in raters if rater.kept}
    outcomes = {
        name: _outcomes(kept, key["items"], name, compared["first"]) for name, compared in key["comparisons"].items()
    }
    everything = np.concatenate(list(outcomes.values()), axis=1)
    return {
        "form": key["form"],
        "confidence": confidence,
        "comparisons": {
            name: _comparison(found, key["comparisons"][name]["identical"], how)
            | {"agreement": agreement(found, **how)}
            | _judge(found, _prompts(key["items"], name), (judged or {}).get(name), how)
            for name, found in outcomes.items()
            if not np.isnan(found).all()
        },
        "agreement": agreement(everything, **how),
        "consistency": _consistency(kept, key["items"], confidence).as_dict(),
        "side_a": _side_a(kept, key["items"], confidence).as_dict(),
        "seconds": _seconds(kept),
        "raters": [asdict(rater) | {"name": f"rater {k}"} for k, rater in enumerate(raters, 1)],
    }


def _outcomes(kept: Ratings, items: Mapping[str, Any], comparison: str, first: str) -> Array:
    """(raters, pairs): 1 the policy `first` is better, ½ a tie, 0 the other; NaN where not rated."""
    pairs = [id_ for id_, item in items.items() if item["kind"] == "pair" and item["comparison"] == comparison]
    found = np.full((len(kept), len(pairs)), np.nan)
    for row, own in enumerate(kept.values()):
        for column, id_ in enumerate(pairs):
            if id_ in own:
                answer = own[id_].answer
                found[row, column] = 0.5 if answer == "tie" else float(items[id_][answer] == first)
    return found


def _prompts(items: Mapping[str, Any], comparison: str) -> list[str]:
    """Of the pairs, in the order of `_outcomes`."""
    return [item["prompt_id"] for item in items.values() if item["kind"] == "pair" and item["comparison"] == comparison]


def _judge(
    found: Array, prompts: Sequence[str], judged: Mapping[str, float | None] | None, how: Mapping[str, Any]
) -> dict[str, Any]:
    """How often the judge takes the side that the raters of a prompt take on average, its own ties counted half; κ
    where both take one. Prompts on which the raters take none are left out."""
    if judged is None:
        return {}
    places = np.flatnonzero(~np.isnan(found).all(axis=0))
    raters: Array = np.nanmean(found[:, places], axis=0)
    theirs: Array = np.array([judged.get(prompts[place]) for place in places.tolist()], dtype=np.float64)
    same = accuracy(agreement_of(theirs - 0.5, raters - 0.5), how["confidence"])
    return {"judge": same.as_dict() | {"kappa": kappa(theirs, raters, how["confidence"]).as_dict()}}


def _comparison(found: Array, identical: int, how: Mapping[str, Any]) -> dict[str, Any]:
    rated = found[:, ~np.isnan(found).all(axis=0)]
    ties = np.full(identical, 0.5)
    means = {
        "rate": np.concatenate([np.nanmean(rated, axis=0), ties]),
        "win": np.concatenate([_share(rated, 1.0), ties * 0]),
        "tie": np.concatenate([_share(rated, 0.5), ties * 2]),
        "loss": np.concatenate([_share(rated, 0.0), ties * 0]),
    }
    intervals = {name: _mean(values, how).as_dict() for name, values in means.items()}
    return {
        **{name: intervals[name]["value"] for name in ("win", "tie", "loss")},
        "n": int(means["rate"].size),
        "ratings": int((~np.isnan(rated)).sum()),
        "identical": identical,
        "intervals": intervals,
    }


def _share(rated: Array, outcome: float) -> Array:
    return (rated == outcome).sum(axis=0) / (~np.isnan(rated)).sum(axis=0)


def _mean(values: Array, how: Mapping[str, Any]) -> Interval:
    """Over prompts; where all are equal the bootstrap would claim certainty: then Wilson."""
    if np.ptp(values) == 0:
        return wilson(float(values[0]), values.size, how["confidence"])
    return bootstrap_mean(values, **how)


def agreement(ratings: Array, *, seed: int, resamples: int, confidence: float) -> dict[str, Any]:
    """Krippendorff's α of `ratings` (raters, pairs), nominal and ordinal, bootstrapped over the pairs that two or more
    raters answered."""
    shared = ratings[:, (~np.isnan(ratings)).sum(axis=0) >= 2]
    count = shared.shape[1]
    if not count:
        return {level: NOTHING.as_dict() for level in LEVELS}
    drawn = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    found: dict[str, Any] = {}
    for level in LEVELS:
        draws = [krippendorff_alpha(shared[:, columns], level) for columns in drawn]
        found[level] = percentiles(krippendorff_alpha(shared, level), draws, count, confidence).as_dict()
    return found


def _consistency(kept: Ratings, items: Mapping[str, Any], confidence: float) -> Interval:
    """How often a rater says the same of a pair whose sides are swapped."""
    same = [
        own[item["of"]].answer == FLIPPED[own[id_].answer]
        for own in kept.values()
        for id_, item in items.items()
        if item["kind"] == "repeat" and id_ in own and item["of"] in own
    ]
    return accuracy(np.array(same, dtype=float), confidence)


def _side_a(kept: Ratings, items: Mapping[str, Any], confidence: float) -> Interval:
    """How often side A is chosen where either is; ½ without a leaning."""
    chosen = [r.answer == "a" for own in kept.values() for r in own.values()
              if r.answer != "tie" and items[r.item]["kind"] == "pair"]  # fmt: skip
    return accuracy(np.array(chosen, dtype=float), confidence)


def _seconds(kept: Ratings) -> dict[str, float | None]:
    spent = [rating.seconds for own in kept.values() for rating in own.values()]
    return {
        "median": median(spent) if spent else None,
        "mean": math.fsum(spent) / len(spent) if spent else None,
        "total": math.fsum(spent),
    }


def unblinded(ratings: Ratings, raters: Sequence[RaterSummary], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each answer, with what the key knows of it: what every number above comes from."""
    rows = []
    for rater in raters:
        for rating in ratings[rater.name].values():
            item = key["items"][rating.item]
            preferred = "tie" if rating.answer == "tie" else item[rating.answer]
            rows.append({
                "rater": rater.name, "kept": rater.kept, "kind": item["kind"], "comparison": item["comparison"] or "",
                "prompt_id": item["prompt_id"], "preferred": preferred, "answer": rating.answer,
                "seconds": rating.seconds, "comment": rating.comment, "item": rating.item,
            })  # fmt: skip
    return rows
