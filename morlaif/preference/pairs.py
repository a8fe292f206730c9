"""Pairs and verdicts joined and tokenized: what a preference model is trained and tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.preference.model import Dialogue, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from morlaif.feedback.records import Verdict


@dataclass(frozen=True)
class LabelledPairs:
    """N pairs with a valid verdict each."""

    first: list[Dialogue]
    second: list[Dialogue]
    probability: list[float]  # that the first is better
    invalid: int  # verdicts left out: the judge gave no usable answer

    @property
    def response_lengths(self) -> NDArray[np.float64]:
        """(N, 2) tokens of the first and the second response."""
        sides = [[len(row.ids) - row.start for row in side] for side in (self.first, self.second)]
        return np.array(sides, dtype=float).T

    def __len__(self) -> int:
        return len(self.first)


def label_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], verdicts: Sequence[Verdict], max_length: int
) -> LabelledPairs:
    """Join by pair id, never by position, and tokenize as the bank does when it scores.

    A pair without a verdict is left out (it was not judged); a verdict without its pair is an error.
    """
    by_id = {pair.id: pair for pair in pairs}
    result = LabelledPairs([], [], [], sum(not verdict.valid for verdict in verdicts))
    for verdict in verdicts:
        if verdict.pair_id not in by_id:
            raise UserError(
                f"verdict on pair '{verdict.pair_id}': no such pair; verdicts and pairs do not belong together"
            )
        if not verdict.valid:
            continue
        pair = by_id[verdict.pair_id]
        result.first.append(tokenize(tokenizer, pair.messages, pair.first, max_length))
        result.second.append(tokenize(tokenizer, pair.messages, pair.second, max_length))
        result.probability.append(verdict.p_first)
    return result


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
