"""What a policy answers to held-out prompts, and plain facts about the answers."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message, prompt_id
from morlaif.evaluation.results import ResponseFacts
from morlaif.evaluation.settings import EvalSettings
from morlaif.models.ends import Ends
from morlaif.models.generate import generate
from morlaif.statistics import Array


@dataclass(frozen=True, slots=True)
class PolicyResponses:
    """The answers of one policy, in the order of the prompts."""

    texts: list[str]
    lengths: list[int]  # generated tokens, the end token not counted
    ended: list[bool]  # by itself, rather than cut at max_new_tokens

    def facts(self) -> ResponseFacts:
        return ResponseFacts(
            tokens=float(np.mean(self.lengths)),
            words=float(np.mean([len(text.split()) for text in self.texts])),
            ended=float(np.mean(self.ended)),
            distinct=len(set(self.texts)) / len(self.texts),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """What one policy answered to N prompts, and what is thought of it."""

    responses: PolicyResponses
    scores: Array  # (n, K) raw scores of the preference models on the first n ≤ N
    true: Array | None  # (N, P) by the known truth
    utility: Array | None = None  # (N,) by the hidden utility of a world that is known


def response_rows(
    prompts: Sequence[list[Message]], answers: Mapping[str, Answered], names: Sequence[str], principles: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each prompt: every policy's text, its tokens, raw scores by model (None where not scored), true
    scores by principle and the hidden utility (None where unknown)."""

    def one(answer: Answered, i: int) -> dict[str, Any]:
        scored, true = i < len(answer.scores) and bool(names), answer.true
        return {
            "text": answer.responses.texts[i],
            "tokens": answer.responses.lengths[i],
            "scores": dict(zip(names, answer.scores[i].tolist(), strict=True)) if scored else None,
            "truth": None if true is None else dict(zip(principles, true[i].tolist(), strict=True)),
            "utility": None if answer.utility is None else round(float(answer.utility[i]), 6),
        }

    return [
        {
            "prompt_id": prompt_id(messages),
            "messages": messages,
            "responses": {policy: one(answer, i) for policy, answer in answers.items()},
        }
        for i, messages in enumerate(prompts)
    ]


def relative_rows(rows: Sequence[dict[str, Any]], base: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """`response_rows` with scores in deviations of `base` (n, K), those of SFT's answers."""
    spread = base.std(axis=0)
    mean, unit = base.mean(axis=0), np.where(spread > 0, spread, 1.0)

    def relative(answer: dict[str, Any]) -> dict[str, Any]:
        raw = np.array([answer["scores"][name] for name in names]) if names else np.zeros(0)
        return answer | {"scores": dict(zip(names, ((raw - mean) / unit).round(3).tolist(), strict=True))}

    return [row | {"responses": {p: relative(answer) for p, answer in row["responses"].items()}} for row in rows]


def respond(
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    prompts: Sequence[list[Message]],
    settings: EvalSettings,
    *,
    seed: int,
    gather: float = math.inf,
) -> PolicyResponses:
    """Answers to each prompt of the policy that `load` loads.

    Policies given one seed share their random numbers, which narrows what chance adds to their comparison.
    Several ranks share the prompts and all get all answers; `gather`: see `generate`.
    """
    model, tokenizer = load()
    rows = generate(
        model,
        tokenizer,
        [prompt_ids(tokenizer, messages, settings.max_prompt_tokens) for messages in prompts],
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        stop=settings.stop,
        batch_size=settings.batch_size,
        generator=torch.Generator().manual_seed(seed),
        gather=gather,
    )
    ends = Ends.of(model, tokenizer, settings.stop)
    if ranks.count() > 1:
        del model
        gc.collect()  # weights that lie in parts hold on to themselves
    return PolicyResponses(list(map(ends.text, rows)), list(map(ends.length, rows)), list(map(ends.ended, rows)))
