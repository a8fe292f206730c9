"""What is learnt from: pairs of responses as tokens, with a target for each, and what else a kind of loss wants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from morlaif.data.records import Message
from morlaif.data.spool import Picked
from morlaif.dpo.settings import DPOSettings
from morlaif.preference.model import Dialogue, dialogue_spool, tokenize
from morlaif.statistics import TIE


@dataclass(frozen=True)
class Preference:
    """One pair. The names of the sides are those of most data; `target` says which is better, and how surely."""

    messages: Sequence[Message]  # ends with a user turn
    chosen: str
    rejected: str
    target: float = 1.0  # probability that `chosen` is better


@dataclass(frozen=True)
class Pairs:
    """N pairs with K verdicts on each; in DPO K is 1. Tensors are float64, on the CPU."""

    chosen: Sequence[Dialogue]
    rejected: Sequence[Dialogue]
    target: Tensor  # (N, K) probability that the chosen one is better
    count: Tensor  # (N, K) what each verdict counts in the loss; 0 where there is none, a mean of 1 over pairs in all
    margin: Tensor  # (N, K) see `losses.Compared`
    scale: Tensor  # (K,)
    plain: tuple[Sequence[Dialogue], Sequence[Dialogue]] | None = (
        None  # both sides as the reference reads them, if apart
    )

    @classmethod
    def of(cls, chosen: Sequence[Dialogue], rejected: Sequence[Dialogue], target: Tensor) -> Pairs:
        """Plain DPO: one verdict on each pair, `target` (N,), all of which count the same."""
        one = target.double()[:, None]
        made = cls(chosen, rejected, one, torch.ones_like(one), torch.zeros_like(one), torch.ones(1).double())
        return made

    def __len__(self) -> int:
        return len(self.target)

    @property
    def better(self) -> Tensor:
        """(N,) +1 where the chosen one is better by all verdicts together, -1 where the rejected one is, 0 else."""
        return (self.count * (self.target - 0.5)).sum(1).sign()

    def lengths(self) -> list[int]:
        """Tokens of the longer side of each pair, prompt included."""
        return [max(len(a.ids), len(b.ids)) for a, b in zip(self.chosen, self.rejected, strict=True)]

    @property
    def behind(self) -> Pairs:
        """The same as the reference reads them."""
        return self if self.plain is None else replace(self, chosen=self.plain[0], rejected=self.plain[1], plain=None)

    def counted(self, count: Tensor) -> Pairs:
        """The same, each pair counted (N,) times as much as now."""
        return replace(self, count=self.count * count[:, None])

    def pick(self, rows: Sequence[int]) -> Pairs:
        """Some of the pairs."""
        at = torch.tensor(list(rows), dtype=torch.long)
        tables = {name: getattr(self, name)[at] for name in ("target", "count", "margin")}
        plain = None if self.plain is None else (Picked(self.plain[0], rows), Picked(self.plain[1], rows))
        chosen, rejected = Picked(self.chosen, rows), Picked(self.rejected, rows)
        return replace(self, chosen=chosen, rejected=rejected, plain=plain, **tables)


def hardened(target: Tensor) -> Tensor:
    """Any shape: 1 or 0 by which side is better; ½ and NaN stay."""
    return torch.where(target.isnan(), target, (target - 0.5).sign() / 2 + 0.5)


def pairs_of(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Preference],
    settings: DPOSettings,
    folder: Path | None = None,
) -> Pairs:
    """`rows` as tokens, those without a difference (equal sides, or a target of ½ among hard ones) left out.

    Read one after another; what they come to lies in files in `folder` (see `Spool`).
    """
    chosen, rejected, targets = dialogue_spool(folder), dialogue_spool(folder), list[float]()
    for row in rows:
        a, b = (encode(tokenizer, row.messages, text, settings) for text in (row.chosen, row.rejected))
        if a.ids == b.ids or (settings.targets == "hard" and abs(row.target - 0.5) < TIE):
            continue
        chosen.append(a)
        rejected.append(b)
        targets.append(row.target)
    target = torch.tensor(targets, dtype=torch.float64)
    return Pairs.of(chosen, rejected, hardened(target) if settings.targets == "hard" else target)


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], response: str, settings: DPOSettings
) -> Dialogue:
    """The one form of a dialogue, as preference models read it: the prompt is cut whatever the response is."""
    return tokenize(tokenizer, messages, response, settings.max_length, settings.max_prompt)
