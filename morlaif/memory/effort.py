"""How much work a unit is: forwards of so many tokens through a model. Seconds follow from a rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from morlaif.memory.dimensions import Dimensions

Op = Literal["read", "adapt", "learn", "sample"]  # forward; and backward to adapters; to all weights; token by token
OPERATIONS = {"read": 2, "adapt": 4, "learn": 6, "sample": 2}  # a parameter and token


class Amounts(NamedTuple):
    """What is known of a run's data before it is read, or once it is."""

    examples: int | None  # of both splits
    held_out: int | None
    demonstrations: int | None
    prompt: int  # tokens
    response: int  # of the data's own
    sampled: int  # of those that the run judges and learns from: its own samples, or the data's


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

    @property
    def forward(self) -> tuple[object, ...]:
        """What makes two efforts the same but for how often."""
        return self.op, self.model, self.rows, self.length, self.logits, self.new

    @property
    def operations(self) -> float:
        tokens = self.rows * (self.length + self.new)
        head = self.dims.vocabulary * self.dims.width * (self.logits + self.rows * self.new)
        return OPERATIONS[self.op] * (self.dims.body * tokens + head)


def sampled(dims: Dimensions, rows: int, at_once: int, data: Amounts, new: int) -> Iterator[Effort]:
    """To sample a response for each of `rows` prompts."""
    at_once = max(1, min(rows, at_once))
    yield Effort("sample", "policy", dims, at_once, data.prompt, rows / at_once, new=min(new, data.response))


def scored(dims: Dimensions, rows: int, models: int, data: Amounts) -> Iterator[Effort]:
    """To score so many responses under `models` preference models."""
    at_once = max(1, min(8, rows))
    if models and rows:
        yield Effort("read", "base", dims, at_once, data.prompt + data.sampled, rows * models / at_once)
