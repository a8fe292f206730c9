"""Whether the responses of a run end by themselves: where most are cut at the limit, rewards and verdicts mislead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from morlaif.stages.places import Places


def few_ended(shares: Mapping[str, float | None], places: Places | None, limit: str) -> Iterator[str]:
    """A line where less than the run expects of its model ended; None: it is not known.

    shares: by whose responses they are, as the line has it; limit: the key of the longest response, with its value.
    """
    if places is None:
        return
    least = places.model.min_ended
    few = [f"{share:.0%} of {whose}" for whose, share in shares.items() if share is not None and share < least]
    if few:
        yield (
            f"{', '.join(few)} ended by themselves, the others were cut at {limit} (model.min_ended={least:g}): "
            "allow more tokens, or see that the model knows how to end its turn"
        )
