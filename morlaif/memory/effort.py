"""How much work a unit is: forwards of so many tokens through a model. Seconds follow from a rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from morlaif.memory.dimensions import Dimensions

# Forward; and backward to adapters; to all weights; token by token; model and tokenizer from a file, or to one.
Op = Literal["read", "adapt", "learn", "sample", "load"]
OPERATIONS = {"read": 2, "adapt": 4, "learn": 6, "sample": 2, "load": 0}  # a parameter and token


class Amounts(NamedTuple):
    """What is known of a run's data before it is read, or once it is."""

    examples: int | None  # of both splits
    held_out: int | None
    demonstrations: int | None
    prompt: int  # tokens, on average
    response: int  # of the data's own
    sampled: int  # of those that the run judges and learns from: its own samples, or the data's
    prompts: tuple[int, ...] = ()  # tokens of some prompts, where the data can be looked at

    def padded(self, rows: int, most: int | None, beside: int = 0) -> int:
        """Tokens of each of `rows` prompts that are padded to the longest, with `beside` more behind; `most` in all.

        The mean over the prompts that are known, in batches as they come.
        """
        lengths = [min(length + beside, most or length + beside) for length in self.prompts or (self.prompt,)]
        batches = [lengths[at : at + rows] for at in range(0, max(1, len(lengths) - rows + 1), max(1, rows))]
        return round(sum(map(max, batches)) / len(batches))


@dataclass(frozen=True)
class Effort:
    """Alike forwards, one after another."""

    op: Op
    model: str  # policy, base (of the preference models) or judge
    dims: Dimensions
    rows: int  # of one forward
    length: int  # tokens of a row
    times: float
    logits: int = 0  # tokens of one forward that go through the output head
    new: int = 0  # tokens that are sampled for each row
    dropout: float = 0.0  # of adapters that learn

    @property
    def forward(self) -> tuple[object, ...]:
        """What makes two efforts the same but for how often."""
        return self.op, self.model, self.rows, self.length, self.logits, self.new, self.dropout

    @property
    def operations(self) -> float:
        tokens = self.rows * (self.length + self.new)
        head = self.dims.vocabulary * self.dims.width * (self.logits + self.rows * self.new)
        return OPERATIONS[self.op] * (self.dims.body * tokens + head)


def loaded(model: str, dims: Dimensions, times: float = 1) -> Effort:
    """To load a model with its tokenizer, or to write it, so often."""
    return Effort("load", model, dims, 1, 0, times)


def sampled(
    dims: Dimensions, rows: int, at_once: int, data: Amounts, new: int, most: int | None = None
) -> Iterator[Effort]:
    """To sample a response for each of `rows` prompts, each cut at `most` tokens."""
    at_once = max(1, min(rows, at_once))
    length = data.padded(at_once, most)
    yield Effort("sample", "policy", dims, at_once, length, rows / at_once, new=min(new, data.response))


def scored(dims: Dimensions, rows: int, models: int, data: Amounts, most: int | None = None) -> Iterator[Effort]:
    """To score so many responses under `models` preference models, each with its prompt `most` tokens."""
    at_once = max(1, min(8, rows))
    if models and rows:  # rows of like length go through together
        yield Effort("read", "base", dims, at_once, data.padded(1, most, data.sampled), rows * models / at_once)
