"""What a policy answers to held-out prompts, and plain facts about the answers."""

from __future__ import annotations

import gc
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message, prompt_id
from morlaif.errors import Damaged
from morlaif.evaluation.results import ResponseFacts
from morlaif.evaluation.settings import Answering
from morlaif.files import read_json_lines
from morlaif.models.ends import Ends
from morlaif.models.generate import draw_noise, generate
from morlaif.statistics import Array

ANSWERS = "answers.jsonl"  # in place of a model: what a policy that is none answers to the held-out prompts


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
    settings: Answering,
    *,
    seed: int,
    gather: float = math.inf,
) -> PolicyResponses:
    """Answers to each prompt of the policy that `load` loads.

    Policies given one seed share their random numbers, which narrows what chance adds to their comparison.
    Several ranks share the prompts and all get all answers; `gather`: see `generate`.
    """
    model, tokenizer = load()
    made = next(draws(model, tokenizer, prompts, settings, seed=seed, gather=gather))
    if ranks.count() > 1:
        del model
        gc.collect()  # weights that lie in parts hold on to themselves
    return made


def draws(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    settings: Answering,
    *,
    seed: int,
    gather: float = math.inf,
    known: Sequence[PolicyResponses] = (),
) -> Iterator[PolicyResponses]:
    """Endless answers to all prompts; the first are what `respond` gives.

    `known`: the first of them as an earlier process drew them, which are given again.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = [prompt_ids(tokenizer, messages, settings.max_prompt_tokens) for messages in prompts]
    ends = Ends.of(model, tokenizer, settings.stop)
    for drawn in itertools.count():
        noise = draw_noise(ids, settings.max_new_tokens, generator, model.device)
        if drawn < len(known):
            yield known[drawn]
            continue
        rows = generate(
            model,
            tokenizer,
            ids,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=settings.stop,
            batch_size=settings.batch_size,
            noise=noise,
            gather=gather,
        )
        yield PolicyResponses(list(map(ends.text, rows)), list(map(ends.length, rows)), list(map(ends.ended, rows)))


def leave_answers(file: Path, prompts: Sequence[list[Message]], answers: PolicyResponses) -> None:
    """Write what a policy answers to `prompts`, a row for each."""
    rows = zip(prompts, answers.texts, answers.lengths, answers.ended, strict=True)
    lines = (
        json.dumps({"prompt_id": prompt_id(p), "text": text, "tokens": length, "ended": ended}, ensure_ascii=False)
        for p, text, length, ended in rows
    )
    beside = file.with_name(f".{file.name}")
    beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    beside.replace(file)  # a kill leaves a whole file or none


def kept_answers(file: Path, prompts: Sequence[list[Message]]) -> PolicyResponses:
    """What `leave_answers` wrote, in the order of `prompts`.

    Raises:
        Damaged: one of them is not there.
    """
    rows = {row["prompt_id"]: row for _, row in read_json_lines(file, failure=Damaged)}
    names = [prompt_id(messages) for messages in prompts]
    if lacking := [name for name in names if name not in rows]:
        raise Damaged(f"{file}: no answer to {len(lacking)} of {len(names)} prompts, the first of id {lacking[0]}")
    found = [rows[name] for name in names]
    return PolicyResponses(*([row[key] for row in found] for key in ("text", "tokens", "ended")))
