"""Pairs and verdicts joined and tokenized: what preference models are trained and tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from morlaif.data.records import Message, Pair
from morlaif.data.spool import Chained
from morlaif.errors import UserError
from morlaif.preference.model import Dialogue, dialogue_spool
from morlaif.statistics import TIE

if TYPE_CHECKING:
    from morlaif.feedback.records import Verdict

SPARED = 0.95  # of the training responses are not cut for the sake of a long prompt
COVERED = 0.5  # of the pairs: above it, a principle's batches are made of all pairs, those without a verdict masked


@dataclass(frozen=True)
class LabelledPairs:
    """N pairs and what K principles' judges say of them."""

    first: Sequence[Dialogue]
    second: Sequence[Dialogue]
    probability: Tensor  # (N, K) that the first is better; NaN without a valid verdict
    invalid: list[int]  # for each principle: verdicts left out, since the judge gave no usable answer
    prompt_ids: list[str]
    cut: dict[str, int]  # what was too long: pairs, and the tokens that prompts (once a pair) and responses lost
    response_lengths: NDArray[np.float64]  # (N, 2) tokens of the first and the second response

    @property
    def rows(self) -> Sequence[Dialogue]:
        """All 2N dialogues: pair i is rows i and N + i."""
        return Chained(self.first, self.second)

    def judged(self, k: int) -> NDArray[np.int64]:
        """Pairs that principle `k` has a valid verdict on."""
        return np.flatnonzero(~self.probability[:, k].isnan().numpy())

    def only(self, columns: Sequence[int]) -> LabelledPairs:
        """The same pairs, and what some of the principles' judges say of them."""
        kept = list(columns)
        return replace(self, probability=self.probability[:, kept], invalid=[self.invalid[k] for k in kept])

    def __len__(self) -> int:
        return len(self.first)


def prompt_room(responses: Sequence[int], max_length: int) -> int:
    """Most tokens of a prompt, from the lengths of the training responses: what nearly all of them leave, but half at
    least. One number for all: were it what each response leaves, the two of a pair would be read behind different
    prompts, and a score would tell of lengths. In whole eighths of `max_length`: models of like data share a forward.
    """
    longest = int(np.quantile(responses, SPARED, method="higher")) if len(responses) else 0
    step = max(1, max_length // 8)
    return max(max_length // 2, (max_length - longest) // step * step)


def label_pairs(
    encode: Callable[[Sequence[Message], str], Dialogue],
    pairs: Sequence[Pair],
    verdicts: Mapping[str, Sequence[Verdict]],
    folder: Path | None = None,
) -> LabelledPairs:
    """Join by pair id, never by position, and `encode` each response once, as the bank does when it scores.

    A pair without a verdict was not judged and has no label; a verdict without its pair is an error. A pair whose
    sides are equal after what was too long is cut teaches and tests nothing: it has no label either, and is counted.
    Verdicts and pairs are read one after another, and the dialogues lie in files in `folder` (see `Spool`).
    """
    first, second = dialogue_spool(folder), dialogue_spool(folder)
    place: dict[str, int] = {}
    prompt_ids: list[str] = []
    equal = torch.zeros(len(pairs), dtype=torch.bool)
    lengths = np.zeros((len(pairs), 2))
    cut = {"pairs": 0, "prompt_tokens": 0, "response_tokens": 0}
    for i, pair in enumerate(pairs):
        a, b = (encode(pair.messages, text) for text in (pair.first, pair.second))
        place[pair.id] = i
        prompt_ids.append(pair.prompt_id)
        first.append(a)
        second.append(b)
        equal[i] = a.ids == b.ids
        lengths[i] = [len(row.ids) - row.start for row in (a, b)]
        lost = a.response_cut + b.response_cut
        cut["pairs"] += bool(a.prompt_cut or lost)
        cut["prompt_tokens"] += a.prompt_cut
        cut["response_tokens"] += lost
    probability = torch.full((len(pairs), len(verdicts)), torch.nan, dtype=torch.float64)
    invalid = []
    for k, given in enumerate(verdicts.values()):
        invalid.append(0)
        for verdict in given:
            invalid[k] += not verdict.valid
            if verdict.pair_id not in place:
                raise UserError(
                    f"verdict on pair '{verdict.pair_id}': no such pair; verdicts and pairs do not belong together"
                )
            if verdict.valid and verdict.p_first is not None:
                probability[place[verdict.pair_id], k] = verdict.p_first
    probability[equal] = torch.nan
    return LabelledPairs(first, second, probability, invalid, prompt_ids, cut | {"equal": int(equal.sum())}, lengths)


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
