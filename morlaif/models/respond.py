"""Two responses for each prompt: sampled from a model, or the source's own."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Example, Pair, content_id, first_of_each, prompt_id
from morlaif.data.spool import Mapped, json_spool, token_spool
from morlaif.errors import UserError
from morlaif.models.ends import Ends
from morlaif.models.generate import draw_noise, generate, longest_first
from morlaif.models.settings import SampleResponses


@dataclass(frozen=True)
class ResponsePairs:
    pairs: Sequence[Pair]
    dropped: int  # prompts without two different responses, and repetitions of a pair
    ended: float | None  # share of the sampled responses that ended by themselves
    tokens: float | None  # mean length of the sampled responses


def source_pairs(examples: Sequence[Example]) -> ResponsePairs:
    """The examples' own pairs, with `human` 1 or 0; the mean where the same pair was judged more than once.

    Which response comes first depends on a hash of the two texts, never on which one was chosen.

    Raises:
        UserError: an example has no pair.
    """
    names, rows, votes = array("Q"), array("q"), array("B")  # of each judgement: the pair, where, whether for its first
    for row, example in enumerate(examples):
        if example.chosen is None or example.rejected is None:
            lacks = "chosen" if example.chosen is None else "rejected"
            raise UserError(
                f"respond.source=pairs: row {row} of the data (id {example.id}) has no '{lacks}' response; "
                "give data with pairs, or use respond=sample"
            )
        if example.chosen != example.rejected:
            pair = _ordered(example, example.chosen, example.rejected)
            names.append(int(pair.id, 16))
            rows.append(row)
            votes.append(pair.human == 1.0)
    _, begins, which, count = np.unique(np.array(names), return_index=True, return_inverse=True, return_counts=True)
    human = np.bincount(which, np.array(votes), len(begins)) / np.maximum(count, 1)
    order = np.argsort(begins)
    pairs = Mapped(lambda place: _voted(examples[rows[begins[place]]], float(human[place])), array("q", order.tolist()))
    return ResponsePairs(pairs, dropped=len(examples) - len(pairs), ended=None, tokens=None)


def _voted(example: Example, human: float) -> Pair:
    assert example.chosen is not None and example.rejected is not None  # else it is not among the pairs
    return replace(_ordered(example, example.chosen, example.rejected), human=human)


def _ordered(example: Example, chosen: str, rejected: str) -> Pair:
    low, high = sorted((chosen, rejected))
    swap = int(content_id(prompt_id(example.messages), low, high), 16) % 2
    first, second = (high, low) if swap else (low, high)
    return Pair.of(example.messages, first, second, human=float(first == chosen))


def sample_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    settings: SampleResponses,
    *,
    seed: int,
    gather: float = math.inf,
    on_progress: Callable[[int], None] = lambda done: None,
    folder: Path | None = None,
) -> ResponsePairs:
    """Two different samples of `model` for each prompt. A second one that equals the first is drawn again, up to
    `attempts` times in all; then the prompt is dropped. `on_progress` gets the number of prompts done.

    Several ranks share the prompts and all get all pairs; `gather`: see `generate`. Tokenized prompts and responses lie
    in files in `folder` (see `Spool`).
    """
    generator = torch.Generator().manual_seed(seed)
    ends = Ends.of(model, tokenizer, settings.stop)
    limit = _prompt_limit(model, settings)
    prompts = token_spool(folder, (prompt_ids(tokenizer, example.messages, limit) for example in examples))
    drawn = Drawn()

    def draw(*groups: Sequence[int]) -> list[str]:
        rows = [row for group in groups for row in group]
        noise = [
            draw_noise([prompts[row] for row in group], settings.max_new_tokens, generator, torch.device("cpu"))
            for group in groups
        ]
        ids = generate(
            model,
            tokenizer,
            [prompts[row] for row in rows],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=settings.stop,
            batch_size=settings.batch_size,
            noise=torch.cat(noise),
            gather=gather,
        )
        drawn.add(ids, ends.ended)
        return list(map(ends.text, ids))

    order = longest_first(prompts)
    size = max(1, settings.batch_size // 2)
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    texts = json_spool(folder)  # of two responses each, the later ones of a row in the place of the earlier
    place = np.zeros(len(examples), dtype=np.int64)
    alike = np.zeros(len(examples), dtype=bool)

    def keep(row: int, first: str, second: str) -> None:
        place[row], alike[row] = len(texts), first == second
        texts.append([first, second])

    for start in range(0, len(groups), ranks.count()):  # each group's noise is its own, however many ranks there are
        some = groups[start : start + ranks.count()]
        both = iter(draw(*([*rows, *rows] for rows in some)))
        for rows in some:
            firsts, seconds = ([next(both) for _ in rows] for _ in range(2))
            for row, first, second in zip(rows, firsts, seconds, strict=True):
                keep(row, first, second)
        on_progress(len(texts))
    for _ in range(settings.attempts - 1):
        same = [row for row in order if alike[row]]
        if not same:
            break
        for row, again in zip(same, draw(same), strict=True):
            keep(row, texts[place[row]][0], again)

    def pair(row: int) -> Pair:
        first, second = texts[place[row]]
        return Pair.of(examples[row].messages, first, second)

    different = np.flatnonzero(~alike)
    names = np.fromiter((int(pair(row).id, 16) for row in different.tolist()), np.uint64, len(different))
    once = different[first_of_each(names)].tolist()  # each pair
    return ResponsePairs(
        Mapped(pair, array("q", once)),
        dropped=len(examples) - len(once),
        ended=drawn.ended / drawn.count if drawn.count else None,
        tokens=drawn.tokens / drawn.count if drawn.count else None,
    )


@dataclass
class Drawn:
    """Counts of the responses that were sampled."""

    count: int = 0
    ended: int = 0  # by themselves
    tokens: int = 0

    def add(self, responses: Sequence[list[int]], ended: Callable[[list[int]], bool]) -> None:
        self.count += len(responses)
        self.ended += sum(map(ended, responses))
        self.tokens += sum(map(len, responses))


def _prompt_limit(model: PreTrainedModel, settings: SampleResponses) -> int | None:
    """Most tokens of a prompt: as set, and never more than leave room for the response."""
    limits = [settings.max_prompt_tokens] if settings.max_prompt_tokens is not None else []
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None:
        if positions <= settings.max_new_tokens:
            raise UserError(
                f"respond.max_new_tokens={settings.max_new_tokens} leaves no room for a prompt: "
                f"the model has {positions} positions"
            )
        limits.append(positions - settings.max_new_tokens)
    return min(limits, default=None)
