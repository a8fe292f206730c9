"""Which of several responses to a prompt are learnt against one another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from morlaif.online.samples import Sampled
from morlaif.preference.model import Dialogue


class Chosen(NamedTuple):
    prompt: int  # its place
    better: int  # which of its responses
    worse: int


def best_against(
    samples: Sequence[Sampled],
    values: Tensor,
    how: Literal["max_min", "max_random"],
    *,
    length_ratio: float | None = None,
    seed: int = 0,
) -> list[Chosen]:
    """A pair for each prompt at most: none where the two are worth the same, are the same, or too unlike in length.

    Args:
        values: (P, n) what each response is worth.
        seed: draws what the best is set against, for max_random.
    """
    made = []
    for place, (own, row) in enumerate(zip(samples, values.tolist(), strict=True)):
        better = max(range(len(row)), key=row.__getitem__)
        others = [k for k in range(len(row)) if k != better]
        if not others:
            continue
        worse = (
            min(others, key=row.__getitem__) if how == "max_min" else random.Random(f"{seed}/{place}").choice(others)
        )
        if row[better] == row[worse] or own.ids[better] == own.ids[worse]:
            continue
        short, long = sorted(len(own.ids[k]) for k in (better, worse))
        if length_ratio is None or long <= length_ratio * short:
            made.append(Chosen(place, better, worse))
    return made


def priced(values: Tensor, apart: Tensor, coef: float) -> Tensor:
    """(P, n) rewards less the price of the way: r - coef · (log π - log π_0), of which KL-regularised RL is the mean
    (2312.11456). At its optimum all responses to a prompt are worth the same."""
    return values - coef * apart.to(values)


def dialogue(own: Sampled, which: int, max_length: int) -> Dialogue:
    """A sampled response behind its prompt, as the ids that were sampled; a longer prompt loses its beginning."""
    response = own.ids[which]
    room = max(1, max_length - len(response))
    prompt = own.prompt[-room:]
    kept = response[: max_length - len(prompt)]
    return Dialogue([*prompt, *kept], len(prompt), len(own.prompt) - len(prompt), len(response) - len(kept))
