"""Pairs and verdicts joined and tokenized: what preference models are trained and tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from morlaif.data.records import Message, Pair
from morlaif.errors import UserError
from morlaif.preference.metrics import TIE
from morlaif.preference.model import Dialogue

if TYPE_CHECKING:
    from morlaif.feedback.records import Verdict

COVERED = 0.5  # of the pairs: above it, a principle's batches are made of all pairs, those without a verdict masked


@dataclass(frozen=True)
class LabelledPairs:
    """N pairs and what K principles' judges say of them."""

    first: list[Dialogue]
    second: list[Dialogue]
    probability: Tensor  # (N, K) that the first is better; NaN without a valid verdict
    invalid: list[int]  # for each principle: verdicts left out, since the judge gave no usable answer
    prompt_ids: list[str]

    @property
    def response_lengths(self) -> NDArray[np.float64]:
        """(N, 2) tokens of the first and the second response."""
        sides = [[len(row.ids) - row.start for row in side] for side in (self.first, self.second)]
        return np.array(sides, dtype=float).T

    @property
    def rows(self) -> list[Dialogue]:
        """All 2N dialogues: pair i is rows i and N + i."""
        return self.first + self.second

    def judged(self, k: int) -> NDArray[np.int64]:
        """Pairs that principle `k` has a valid verdict on."""
        return np.flatnonzero(~self.probability[:, k].isnan().numpy())

    def __len__(self) -> int:
        return len(self.first)


def label_pairs(
    encode: Callable[[Sequence[Message], str], Dialogue],
    pairs: Sequence[Pair],
    verdicts: Mapping[str, Sequence[Verdict]],
) -> LabelledPairs:
    """Join by pair id, never by position, and `encode` each response once, as the bank does when it scores.

    A pair without a verdict was not judged and has no label; a verdict without its pair is an error.
    """
    place = {pair.id: i for i, pair in enumerate(pairs)}
    probability = torch.full((len(pairs), len(verdicts)), torch.nan, dtype=torch.float64)
    for k, given in enumerate(verdicts.values()):
        for verdict in given:
            if verdict.pair_id not in place:
                raise UserError(
                    f"verdict on pair '{verdict.pair_id}': no such pair; verdicts and pairs do not belong together"
                )
            if verdict.valid:
                probability[place[verdict.pair_id], k] = verdict.p_first
    return LabelledPairs(
        [encode(pair.messages, pair.first) for pair in pairs],
        [encode(pair.messages, pair.second) for pair in pairs],
        probability,
        [sum(not verdict.valid for verdict in given) for given in verdicts.values()],
        [pair.prompt_id for pair in pairs],
    )


def without_ties(probability: Tensor) -> Tensor:
    """(N, K) with NaN where the judge sees no difference."""
    return probability.masked_fill((probability - 0.5).abs() < TIE, torch.nan)


def batched_over(usable: Tensor, total: int) -> tuple[int, ...]:
    """The pairs that one principle's batches are made of, from those it can learn from: all `total`, or only these.

    With all of them, principles share their batches and may be trained in one pass, a pair that one of them has no
    verdict on counting nothing for it. The choice looks at this principle alone: which others are trained beside it
    changes nothing.
    """
    found = usable.nonzero().flatten().tolist()
    return tuple(range(total)) if len(found) >= COVERED * total else tuple(found)


def kept_out(prompt_ids: Sequence[str], share: float) -> Tensor:
    """(N,) bool: pairs that early stopping chooses by, the same for every principle: all of a prompt or none."""
    return torch.tensor([int(i, 16) % 9973 < share * 9973 for i in prompt_ids], dtype=torch.bool)


def epoch_batches(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator, window: int = 16
) -> Iterator[list[int]]:
    """Indices in random batches of like length: sorted within windows of `window` batches, batches shuffled."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * window):
        chunk = sorted(order[start : start + batch_size * window], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]
