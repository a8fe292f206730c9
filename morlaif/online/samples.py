"""Several responses of one policy to each of many prompts, which a killed process goes on from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message
from morlaif.models.ends import Ends
from morlaif.models.generate import draw_noise, generate
from morlaif.online.settings import Sampling
from morlaif.rl import schedule

ROWS = 512  # responses that are sampled between two lines of the file, about; how many is in no result


@dataclass(frozen=True)
class Sampled:
    """n responses to one prompt."""

    prompt: list[int]  # its ids
    ids: list[list[int]]  # of each response, with what ended it
    texts: list[str]
    lengths: list[int]  # tokens, the end not counted
    ended: list[bool]  # by itself


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    settings: Sampling,
    n: int,
    *,
    seed: int,
    names: Sequence[int] | None = None,
    file: Path | None = None,
    gather: float = math.inf,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Sampled]:
    """n responses to each prompt. Each prompt's noise is its own, by its place: nothing depends on batches.

    Several ranks share the rows and all get all; `gather`: see `generate`.

    Args:
        names: by which the noise of each prompt is drawn; by default its place.
        file: where they are written as they come, and read from after a kill.
        on_progress: is given the number of prompts done.
    """
    ends = Ends.of(model, tokenizer, settings.stop)
    made = ranks.on_first(lambda: _written(file))[: len(prompts)]
    step = max(1, ROWS // n)
    drawn = range(len(prompts)) if names is None else names
    while len(made) < len(prompts):
        places = range(len(made), min(len(made) + step, len(prompts)))
        ids = [prompt_ids(tokenizer, prompts[place], settings.max_prompt_tokens) for place in places]
        own_noise = [schedule.generator(seed, "samples", drawn[place]) for place in places]
        noise = [
            draw_noise([own] * n, settings.max_new_tokens, generator, model.device)
            for own, generator in zip(ids, own_noise, strict=True)
        ]
        rows = generate(
            model,
            tokenizer,
            [own for own in ids for _ in range(n)],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=settings.stop,
            batch_size=settings.batch_size,
            noise=torch.cat(noise),
            gather=gather,
        )
        grouped = [rows[at : at + n] for at in range(0, len(rows), n)]
        new = [
            Sampled(prompt, own, list(map(ends.text, own)), list(map(ends.length, own)), list(map(ends.ended, own)))
            for prompt, own in zip(ids, grouped, strict=True)
        ]
        if file is not None and ranks.is_first():
            _append(file, new)
        made += new
        on_progress(len(made))
    return made


def _append(file: Path, new: Sequence[Sampled]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(list(vars(one).values()), ensure_ascii=False) + "\n" for one in new)


def _written(file: Path | None) -> list[Sampled]:
    """What is whole of a file; what a kill tore off is cut away."""
    if file is None or not file.is_file():
        return []
    made: list[Sampled] = []
    whole = 0
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            made.append(Sampled(*json.loads(line)))
        except (ValueError, TypeError):
            break
        whole += len(line)
    with file.open("r+b") as stream:
        stream.truncate(whole)
    return made
