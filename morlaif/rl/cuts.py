"""How the rows of a step become minibatches and micro-batches: of those that are learnt from, and of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from morlaif.rl import schedule
from morlaif.rl.experience import Batch, Minibatch, collate, cut, partition, plan_minibatch, with_end
from morlaif.rl.settings import PPOSettings


@dataclass(frozen=True)
class Cuts:
    """Of prompts and responses, B rows of ids each, on this rank."""

    settings: PPOSettings
    seed: int
    pad: int
    device: torch.device
    processes: int

    def passes(
        self, step: int, prompts: list[list[int]], responses: list[list[int]], kept: Tensor | None = None
    ) -> list[list[Minibatch]]:
        """Epochs of minibatches, of the rows that are `kept` (B,)."""
        s, lengths = self.settings, _lengths(prompts, responses)
        generator = schedule.generator(self.seed, "minibatches", step)
        rows = None if kept is None else kept.nonzero().flatten().tolist()
        return [
            [
                self._minibatch(micro, prompts, responses)
                for micro in partition(lengths, s.minibatches, s.micro_batch_size, generator, self.processes, rows)
            ]
            for _ in range(s.epochs)
        ]

    def others(self, prompts: list[list[int]], responses: list[list[int]], kept: Tensor) -> list[Minibatch]:
        """The rows that are not kept, which are evaluated and not learnt from."""
        if kept.all():
            return []
        rows, most = (~kept).nonzero().flatten().tolist(), self.settings.micro_batch_size
        return [self._minibatch(cut(rows, _lengths(prompts, responses), most, self.processes), prompts, responses)]

    def batch(self, rows: list[int], prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> Batch:
        """One micro-batch of other readings of these rows."""
        read = [responses[row] for row in rows]
        if self._room is not None:
            read = with_end(read, self.pad, self._room)
        return collate([prompts[row] for row in rows], read, self.pad, self.device)

    def _minibatch(self, micro: Sequence[list[int]], prompts: list[list[int]], responses: list[list[int]]) -> Minibatch:
        return plan_minibatch(micro, prompts, responses, self.pad, self.device, self._room)

    @property
    def _room(self) -> int | None:
        """See `with_end`; None where no state after the last token is valued."""
        return self.settings.max_new_tokens if self.settings.shaping.score_at == "after_eos" else None


def _lengths(prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[int]:
    """Tokens of each row."""
    return [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
