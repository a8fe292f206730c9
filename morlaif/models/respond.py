"""Two responses for each prompt: sampled from a model, or the source's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import decode_response, prompt_ids
from morlaif.data.records import Example, Pair, content_id, prompt_id
from morlaif.errors import UserError
from morlaif.models.ends import ends_of
from morlaif.models.generate import draw_noise, generate, longest_first
from morlaif.models.settings import SampleResponses


@dataclass(frozen=True)
class Responses:
    pairs: list[Pair]
    dropped: int  # prompts without two different responses, and repetitions of a pair
    ended: float | None  # share of the sampled responses that ended by themselves
    tokens: float | None  # mean length of the sampled responses


def source_pairs(examples: Sequence[Example]) -> Responses:
    """The examples' own pairs, with `human` 1 or 0; the mean where the same pair was judged more than once.

    Which response comes first depends on a hash of the two texts, never on which one was chosen.

    Raises:
        UserError: an example has no pair.
    """
    seen: dict[str, list[Pair]] = {}
    for row, example in enumerate(examples):
        if example.chosen is None or example.rejected is None:
            lacks = "chosen" if example.chosen is None else "rejected"
            raise UserError(
                f"respond.source=pairs: row {row} of the data (id {example.id}) has no '{lacks}' response; "
                "give data with pairs, or use respond=sample"
            )
        if example.chosen != example.rejected:
            pair = _ordered(example, example.chosen, example.rejected)
            seen.setdefault(pair.id, []).append(pair)
    pairs = [
        Pair.of(same[0].messages, same[0].first, same[0].second, fmean(pair.human or 0.0 for pair in same))
        for same in seen.values()
    ]
    return Responses(pairs, dropped=len(examples) - len(pairs), ended=None, tokens=None)


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
) -> Responses:
    """Two different samples of `model` for each prompt. A second one that equals the first is drawn again, up to
    `attempts` times in all; then the prompt is dropped. `on_progress` gets the number of prompts done.

    Several ranks share the prompts and all get all pairs; `gather`: see `generate`.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = ends_of(model, tokenizer)
    limit = _prompt_limit(model, settings)
    prompts = [prompt_ids(tokenizer, example.messages, limit) for example in examples]
    drawn: list[list[int]] = []

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
        drawn.extend(ids)
        return [decode_response(tokenizer, row, ends.ids) for row in ids]

    order = longest_first(prompts)
    size = max(1, settings.batch_size // 2)
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    texts: dict[int, tuple[str, str]] = {}
    for start in range(0, len(groups), ranks.count()):  # each group's noise is its own, however many ranks there are
        some = groups[start : start + ranks.count()]
        both = iter(draw(*([*rows, *rows] for rows in some)))
        for rows in some:
            firsts, seconds = ([next(both) for _ in rows] for _ in range(2))
            texts |= dict(zip(rows, zip(firsts, seconds, strict=True), strict=True))
        on_progress(len(texts))
    for _ in range(settings.attempts - 1):
        same = [row for row in order if texts[row][0] == texts[row][1]]
        if not same:
            break
        texts |= {row: (texts[row][0], again) for row, again in zip(same, draw(same), strict=True)}

    pairs = {}
    for row, example in enumerate(examples):
        first, second = texts[row]
        if first != second:
            pair = Pair.of(example.messages, first, second)
            pairs[pair.id] = pair
    return Responses(
        list(pairs.values()),
        dropped=len(examples) - len(pairs),
        ended=fmean(map(ends.ended, drawn)) if drawn else None,
        tokens=fmean(len(ids) for ids in drawn) if drawn else None,
    )


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
