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
    """A line for each policy of whose answers, or of whose last rollouts, less than a share `least` ends."""
    named, found = titles(details.arms), []
    shares = [(f"The answers of {named.get(name, name)}", facts.ended) for name, facts in details.responses.items()]
    shares += [
        (f"The rollouts of {named.get(name, name)}", rows[-1]["ended"])
        for name, rows in curves.items()
        if rows and "ended" in rows[-1]
    ]
    for whose, ended in shares:
        if ended < least:
            found.append(
                f"{whose} end by themselves in {percent(ended, 0)} of cases; the others were cut at the limit of "
                "tokens, so that rewards and verdicts are of unfinished texts."
            )
    return found
