"""Whether the responses of a run end by themselves: where most are cut at the limit, rewards and verdicts mislead."""

from __future__ import annotations

from collections.abc import Iterator

from morlaif.stages.places import Places


def few_ended(share: float | None, places: Places | None, what: str, limit: str) -> Iterator[str]:
    """A line where `share` of the responses is less than the run expects of its model; None: it is not known.

    what: whose responses, as the line begins; limit: the key of the longest response, with its value.
    """
    if share is None or places is None or share >= places.model.min_ended:
        return
    yield (
        f"of {what} {share:.0%} ended by themselves, the others were cut at {limit} (model.min_ended="
        f"{places.model.min_ended:g}): allow more tokens, or see that the model knows how to end its turn"
    )
