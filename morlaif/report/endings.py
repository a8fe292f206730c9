"""What the page says where responses seldom end by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from morlaif.evaluation.results import RunDetails
from morlaif.models.settings import ModelSettings
from morlaif.report.data import titles
from morlaif.report.tables import percent

MIN_ENDED: float = ModelSettings.neutral["min_ended"][0]  # pages have no key at its neutral value


def warnings(
    details: RunDetails, curves: Mapping[str, Sequence[Mapping[str, float]]], least: float = MIN_ENDED
) -> list[str]:
    """A line about answers, and one about last rollouts, with each policy of whose less than a share `least` ends."""
    named = titles(details.arms)
    answers = {name: facts.ended for name, facts in details.responses.items()}
    rollouts = {name: rows[-1]["ended"] for name, rows in curves.items() if rows and "ended" in rows[-1]}
    found = []
    for what, shares in (("answers", answers), ("rollouts", rollouts)):
        few = [f"of {named.get(name, name)} {percent(share, 0)}" for name, share in shares.items() if share < least]
        if few:
            found.append(
                f"Few {what} end by themselves ({', '.join(few)}); the others were cut at the limit of tokens, so that "
                "rewards and verdicts are of unfinished texts."
            )
    return found
