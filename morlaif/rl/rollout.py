"""Step 1 of PPO: what answers the prompts. Every rank asks for all rows, samples its share and gets all answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from morlaif.models.generate import draw, generate
from morlaif.rl.diagnostics import mismatch, sampler_table
from morlaif.rl.engine import Engine
from morlaif.rl.settings import PPOSettings

# Waits for what was begun: the answers, and the sampler's own log-probabilities of each, where it knows them.
Finish: TypeAlias = Callable[[], tuple[list[list[int]], Sequence[Sequence[float]]]]


class Rollout(Protocol):
    """Samples from the policy as it now is."""

    @property
    def sampled(self) -> Sequence[Sequence[float]]:
        """The sampler's own log-probabilities of its last sample, row by row, where it knows them."""
        ...

    def sample(self, prompts: Sequence[list[int]], generator: torch.Generator, group: int = 1) -> list[list[int]]:
        """One answer to each prompt; `group` neighbours have the same prompt.

        An answer is what was sampled, to the id that ended it; its text is another matter (`morlaif.models.ends`).
        """
        ...

    def begin(self, prompts: Sequence[list[int]], generator: torch.Generator, group: int = 1) -> Finish:
        """As `sample`, from the policy as it is now; what is elsewhere (a server) works while this process learns.
        `sampled` stays as it is."""
        ...

    def compare(self, policy: Tensor, reference: Tensor) -> dict[str, float]:
        """What the log shows of the sampler's own log-probabilities of its last sample, beside those of the training
        forward under policy and reference (B, T). Raises where they are another model's."""
        ...


class TransformersRollout:
    """Sampling in this process. What a row draws depends on its place alone, not on how many ranks share the rows."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        settings: PPOSettings,
        autocast: Callable[[], AbstractContextManager[object]],
        gather: float = math.inf,
    ) -> None:
        """`gather`: see `generate`. Log-probabilities of the sampler are taken down where they may differ from those of
        the training forward by more than the last digits of float32, or are to be weighed."""
        self.engine, self.tokenizer, self.settings = engine, tokenizer, settings
        self.autocast, self.gather = autocast, gather
        self.sampled: Sequence[Sequence[float]] = ()

    def sample(self, prompts: Sequence[list[int]], generator: torch.Generator, group: int = 1) -> list[list[int]]:
        rows, self.sampled = self.begin(prompts, generator, group)()
        return rows

    def begin(self, prompts: Sequence[list[int]], generator: torch.Generator, group: int = 1) -> Finish:
        """It has no other device to sample on: all is done when this returns."""
        s = self.settings
        noise = draw(len(prompts), s.max_new_tokens, generator, generator.device)
        with self.engine.sampling() as model, self.autocast():
            coarse = torch.is_autocast_enabled(model.device.type) or model.dtype != torch.float32
            own: list[list[float]] | None = [] if coarse or s.overlap or s.importance_cap is not None else None
            rows = generate(
                model, self.tokenizer, prompts, max_new_tokens=s.max_new_tokens, temperature=s.temperature, stop=s.stop,
                batch_size=s.generation_batch_size, noise=noise, gather=self.gather, logprobs=own,
            )  # fmt: skip
        return lambda: (rows, own or ())

    def compare(self, policy: Tensor, reference: Tensor) -> dict[str, float]:
        """It is the policy itself that sampled, with a cache and in other batches: what differs is rounding."""
        return mismatch(policy, *sampler_table(self.sampled, policy))
