"""The records that flow between the stages, and their form on disk (Arrow, by `datasets`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from morlaif.data.arrow import Rows, save_splits
from morlaif.data.spool import Mapped, Picked

DATASET = "dataset"  # folder of the examples inside the artifact of `data`
PAIRS = "pairs"  # folder of the pairs inside the artifact of `respond`

_MESSAGES = [{"role": "string", "content": "string"}]
_AS_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


def content_id(*parts: object) -> str:
    """16 hex digits of the SHA-256 of `parts`: what a record is named by, so that order and position never matter."""
    text = _AS_JSON.encode(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prompt_id(messages: Sequence[Message]) -> str:
    """The identity of a prompt alone: equal for every example that asks the same thing."""
    return content_id([[m["role"], m["content"]] for m in messages])


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, with whatever its source knows about good answers to it."""

    id: str  # identity of the content below
    messages: list[Message]  # ends with a user turn
    demonstration: str | None  # what supervised fine-tuning imitates
    chosen: str | None  # the response a human preferred …
    rejected: str | None  # … over this one

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        demonstration: str | None = None,
        chosen: str | None = None,
        rejected: str | None = None,
    ) -> Example:
        """An example named by its content. Without a demonstration of its own, `chosen` is imitated."""
        demonstration = chosen if demonstration is None else demonstration
        name = content_id(prompt_id(messages), demonstration, chosen, rejected)
        return cls(name, list(messages), demonstration, chosen, rejected)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one prompt, in the order in which every judge and preference model meets them."""

    id: str  # identity of prompt and both texts
    prompt_id: str
    messages: list[Message]
    first: str
    second: str
    human: float | None  # human probability that `first` is better

    @classmethod
    def of(cls, messages: Sequence[Message], first: str, second: str, human: float | None = None) -> Pair:
        prompt = prompt_id(messages)
        return cls(content_id(prompt, first, second), prompt, list(messages), first, second, human)


def different_prompts(examples: Sequence[Example]) -> Sequence[list[Message]]:
    """The prompts of `examples`, each once, in the order in which they first come."""
    names = np.fromiter((int(prompt_id(example.messages), 16) for example in examples), np.uint64, len(examples))
    return Mapped(lambda example: example.messages, Picked(examples, first_of_each(names).tolist()))


def first_of_each(names: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where in `names` (N,) each comes first, in their order."""
    return np.sort(np.unique(names, return_index=True)[1])


EXAMPLE_COLUMNS = {
    "id": "string", "messages": _MESSAGES, "demonstration": "string", "chosen": "string", "rejected": "string",
}  # fmt: skip
PAIR_COLUMNS = {
    "id": "string", "prompt_id": "string", "messages": _MESSAGES,
    "first": "string", "second": "string", "human": "float64",
}  # fmt: skip


def save_examples(folder: Path, splits: Mapping[str, Iterable[Example]]) -> None:
    """Write the examples of a `data` artifact whose folder is `folder`."""
    save_splits(folder / DATASET, splits, EXAMPLE_COLUMNS)


def load_split(folder: Path, split: str) -> Rows[Example]:
    """The examples of `split` ("sft", "train" or "eval") from the artifact of `data`."""
    return Rows(Path(folder) / DATASET, split, Example)


def save_pairs(folder: Path, splits: Mapping[str, Iterable[Pair]]) -> None:
    """Write the pairs of a `respond` artifact whose folder is `folder`."""
    save_splits(folder / PAIRS, splits, PAIR_COLUMNS)


def load_pairs(folder: Path, split: str) -> Rows[Pair]:
    """The pairs of `split` ("train" or "eval") from the artifact of `respond`."""
    return Rows(Path(folder) / PAIRS, split, Pair)
