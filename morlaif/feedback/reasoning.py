"""Reasoning before the letter, in two steps (Lee et al. 2023, arXiv 2309.00267, section 3.1.2).

    question ──sample──▶ rationale, `CLOSING` ──read──▶ log P(A), log P(B)

What questions share is read once, for all principles and samples; the rationales of a batch are sampled together, and
the closing words go on from the keys and values that are there. Where a model keeps something else than keys and
values, or looks back over a window that the batch outgrows, each question is sampled by itself and then read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from morlaif.feedback.local import LetterModel, Stem
from morlaif.feedback.prompt import CLOSING

if TYPE_CHECKING:
    import torch

    from morlaif.feedback.settings import ThoughtSettings


@dataclass(frozen=True, slots=True)
class Reasoned:
    """One sample."""

    logprobs: list[float]  # of each answer
    rationale: str
    tokens: int  # that were sampled
    ids: list[int]  # of these, the ones that were read: without the end of turn


class Reasoner:
    """What samples and reads. Greedy, or by noise that is each question's own: whatever else is asked beside it."""

    def __init__(self, engine: LetterModel, settings: ThoughtSettings) -> None:
        from morlaif.data.control import plain_ids
        from morlaif.models.ends import Ends

        self.engine, self.settings = engine, settings
        self._ends = Ends.of(engine.model, engine.tokenizer)
        self.closing = plain_ids(engine.tokenizer, CLOSING)
        self.sampled = 0  # tokens

    @property
    def room(self) -> int:
        """Tokens that a question needs beyond its own."""
        return self.settings.max_tokens + len(self.closing)

    def ask(self, stems: Sequence[Stem], seeds: Sequence[Sequence[int]]) -> Iterator[list[list[Reasoned]]]:
        """For every stem, of each of its endings the samples.

        Args:
            seeds: of each stem, one for each of its endings.
        """
        samples, start = self.settings.samples, 0
        while start < len(stems):
            end, rows = start, 0
            while end < len(stems) and (end == start or rows + self._rows(stems[end]) <= self.engine.batch_size):
                rows += self._rows(stems[end])
                end += 1
            batch = [
                Stem(stem.prefix, [own for own in stem.endings for _ in range(samples)]) for stem in stems[start:end]
            ]
            own_seeds = [seed + i for row in seeds[start:end] for seed in row for i in range(samples)]
            found = iter(self._batch(batch, own_seeds))
            for stem in stems[start:end]:
                yield [[next(found) for _ in range(samples)] for _ in stem.endings]
            start = end

    def _rows(self, stem: Stem) -> int:
        return len(stem.endings) * self.settings.samples

    def _batch(self, stems: Sequence[Stem], seeds: Sequence[int]) -> list[Reasoned]:
        import torch

        noise = self._noise(seeds)
        how = self._together if self.engine.goes_on(stems, self.room) else self._apart
        with torch.inference_mode():
            done = how(stems, noise)
        self.sampled += sum(one.tokens for one in done)
        return done

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """(N, max_tokens) uniform on [0, 1); greedy decoding reads none."""
        import torch

        steps = self.settings.max_tokens
        if not self.settings.temperature:
            return torch.zeros(len(seeds), steps, dtype=torch.float64)
        made = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
        return torch.stack([torch.rand(steps, dtype=torch.float64, generator=one) for one in made])

    def _apart(self, stems: Sequence[Stem], noise: torch.Tensor) -> list[Reasoned]:
        from morlaif.models.generate import generate_batch

        engine = self.engine
        prompts = [stem.prefix + ending for stem in stems for ending in stem.endings]
        how = (self.settings.max_tokens, self.settings.temperature, 1.0, noise)
        drawn = [ids for ids, _ in generate_batch(engine.model, engine.pad, prompts, self._ends, *how)]
        texts = [Stem([], [p + self._kept(ids) + self.closing]) for p, ids in zip(prompts, drawn, strict=True)]
        read = [rows[0] for rows in engine.logprobs(texts)]
        engine.computed += sum(map(len, prompts))
        return [self._reasoned(row, ids) for row, ids in zip(read, drawn, strict=True)]

    def _together(self, stems: Sequence[Stem], noise: torch.Tensor) -> list[Reasoned]:
        """Prefixes as one batch, endings on their keys and values, then a token a step; rows that end leave."""
        import torch

        from morlaif.models.decode import keep_rows
        from morlaif.models.generate import COMPACT_AT, sample

        engine, device = self.engine, self.engine.model.device
        noise = noise.to(device)
        logits, cache, mask = engine.open_rows(stems)
        lengths = mask.sum(1).tolist()
        drawn: list[list[int]] = [[] for _ in lengths]
        found: dict[int, list[float]] = {}
        seats, open_rows = list(range(len(drawn))), set(range(len(drawn)))
        for step in range(self.settings.max_tokens):
            picked = sample(logits, self.settings.temperature, 1.0, noise[seats, step])
            for row, token in zip(seats, picked.tolist(), strict=True):
                if row in open_rows:
                    drawn[row].append(token)
                    if self._ends.ended(drawn[row]):
                        open_rows.remove(row)
            last = not open_rows or step + 1 == self.settings.max_tokens
            gone = [place for place, row in enumerate(seats) if last or row not in open_rows]
            if last or len(gone) >= max(1, COMPACT_AT * len(seats)):
                rows = [seats[place] for place in gone]
                at = torch.tensor(gone, device=device)
                own = _forked(cache, at)
                found |= zip(
                    rows,
                    self._close(own, mask[at], [lengths[row] for row in rows], [drawn[row] for row in rows]),
                    strict=True,
                )
                if last:
                    break
                kept = torch.tensor([place for place, row in enumerate(seats) if row in open_rows], device=device)
                keep_rows(cache, kept)
                mask, picked = mask[kept], picked[kept]
                seats = [seats[place] for place in kept.tolist()]
            written = torch.tensor([[int(row in open_rows)] for row in seats], device=device)
            mask = torch.cat([mask, written], dim=1)
            positions = torch.tensor([[lengths[row] + len(drawn[row]) - 1] for row in seats], device=device)
            logits = engine.forward(picked[:, None], mask, positions, cache, [0] * len(seats))
        return [self._reasoned(found[row], ids) for row, ids in enumerate(drawn)]

    def _close(
        self, cache: Any, mask: torch.Tensor, lengths: Sequence[int], drawn: Sequence[list[int]]
    ) -> list[list[float]]:
        """The answers' log-probabilities after the closing words, of rows whose last token is not in `cache` yet.

        Args:
            mask: (N, columns of the cache).
            lengths: tokens of each question.
        """
        import torch

        kept = [self._kept(ids) for ids in drawn]
        pending = [ids[-1:] if len(ids) == len(own) else [] for ids, own in zip(drawn, kept, strict=True)]
        ids, new = self.engine.padded([own + self.closing for own in pending], left=False)
        read = (n + len(own) - len(p) for n, own, p in zip(lengths, kept, pending, strict=True))
        begins = torch.tensor(list(read), device=ids.device)
        positions = begins[:, None] + torch.arange(ids.shape[1], device=ids.device)
        logits = self.engine.forward(ids, torch.cat([mask, new], 1), positions, cache, (new.sum(1) - 1).tolist())
        self.engine.computed += int(new.sum())
        return self.engine.read(logits)

    def _kept(self, ids: list[int]) -> list[int]:
        """Without the end of turn."""
        return ids[:-1] if self._ends.turn.ended(ids) else ids

    def _reasoned(self, logprobs: list[float], ids: list[int]) -> Reasoned:
        return Reasoned(logprobs, self._ends.text(ids).strip(), len(ids), self._kept(ids))


def _forked(cache: Any, rows: torch.Tensor) -> Any:
    """These rows of a cache, which stays as it is."""
    from morlaif.models.decode import keep_rows

    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    keep_rows(made, rows)
    return made
