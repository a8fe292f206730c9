"""What a policy answers to held-out prompts, and plain facts about the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from morlaif.data.chat import decode_response, prompt_ids
from morlaif.data.records import Message
from morlaif.evaluation.settings import EvalSettings
from morlaif.models.generate import generate
from morlaif.models.load import load_policy


@dataclass(frozen=True, slots=True)
class Responses:
    """The answers of one policy, in the order of the prompts."""

    texts: list[str]
    lengths: list[int]  # generated tokens, the end token not counted
    ended: list[bool]  # by itself, rather than cut at max_new_tokens

    def facts(self) -> dict[str, float]:
        """Mean length in tokens and words, share ended by themselves, share of distinct texts."""
        return {
            "tokens": float(np.mean(self.lengths)),
            "words": float(np.mean([len(text.split()) for text in self.texts])),
            "ended": float(np.mean(self.ended)),
            "distinct": len(set(self.texts)) / len(self.texts),
        }


def respond(
    folder: Path,
    prompts: Sequence[list[Message]],
    settings: EvalSettings,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Responses:
    """Answers of the policy in the artifact `folder` to each prompt.

    Policies given one seed share their random numbers, which narrows what chance adds to their comparison.
    """
    model, tokenizer = load_policy(folder, dtype=dtype, device=device)
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
    )
    ended = [bool(row) and row[-1] == tokenizer.eos_token_id for row in rows]
    lengths = [len(row) - end for row, end in zip(rows, ended, strict=True)]
    return Responses([decode_response(tokenizer, row) for row in rows], lengths, ended)
