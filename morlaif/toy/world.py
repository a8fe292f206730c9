"""The toy world's data: demonstrations, and pairs labelled by humans whose utility is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from morlaif.data.records import Example, Message, prompt_id
from morlaif.toy.grammar import Prompt, sample_prompt, sample_response
from morlaif.toy.judge import truth

# What the humans of this world want: utility = Σ weight · score. They mildly enjoy flattery, as annotators do; nothing
# downstream knows these weights.
HUMAN_WEIGHTS: dict[str, float] = {
    "helpfulness": 1.0, "ethicality": 0.7, "factuality": 0.8, "toxicity": 0.7, "sycophancy": -0.2, "empathy": 0.5,
    "relevance": 0.7, "context": 0.5, "bias": 0.4, "understandability": 0.4, "detail": 0.4, "conciseness": 0.3,
}  # fmt: skip

UTILITY_VERSION = 1  # raised where a response becomes worth more or less: by these weights, or by the judge's rules
EVAL_SHARE = 8  # one prompt in 8 is set aside for evaluation, by its hash


def human_utility(messages: Sequence[Message], response: str) -> float:
    """The hidden utility, in log-odds: a response that is better by 1 is preferred with probability σ(1) = .73."""
    return sum(HUMAN_WEIGHTS[name] * value for name, value in truth(messages, response).items())


def make_world(seed: int, sft: int = 4000, train: int = 900, eval: int = 300) -> dict[str, list[Example]]:
    """Splits "sft" (one sampled demonstration), "train" and "eval" (two sampled responses, ordered by a human).

    The human prefers by Bradley–Terry on `human_utility`. Prompts of "eval" occur in no other split. The same seed
    gives the same examples, and asking for more of one split only appends to it.
    """
    return {
        "sft": [_demonstration(rng, prompt) for rng, prompt in islice(_prompts(seed, "sft"), sft)],
        "train": [_pair(rng, prompt) for rng, prompt in islice(_prompts(seed, "train"), train)],
        "eval": [_pair(rng, prompt) for rng, prompt in islice(_prompts(seed, "eval"), eval)],
    }


def _prompts(seed: int, split: str) -> Iterator[tuple[Random, Prompt]]:
    """Endless prompts that belong to `split`, each with the generator to go on with."""
    rng = Random(f"{seed}/{split}")
    while True:
        prompt = sample_prompt(rng)
        held_out = int(prompt_id(prompt.messages), 16) % EVAL_SHARE == 0
        if held_out == (split == "eval"):
            yield rng, prompt


def _demonstration(rng: Random, prompt: Prompt) -> Example:
    return Example.of(prompt.messages, demonstration=sample_response(rng, prompt))


def _pair(rng: Random, prompt: Prompt) -> Example:
    messages = prompt.messages
    first = second = sample_response(rng, prompt)
    while second == first:
        second = sample_response(rng, prompt)
    margin = human_utility(messages, first) - human_utility(messages, second)
    first_wins = rng.random() < 1 / (1 + math.exp(-margin))
    return Example.of(messages, chosen=first if first_wins else second, rejected=second if first_wins else first)
