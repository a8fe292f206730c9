"""Sampling with vLLM: an engine in the training processes, or a server, which gets the weights before it samples."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from morlaif import sharded
from morlaif.errors import MachineError, UserError
from morlaif.models.ends import Ends
from morlaif.rl.diagnostics import mismatch, sampler_table
from morlaif.rl.engine import Engine
from morlaif.rl.rollout import Finish
from morlaif.rl.settings import PPOSettings
from morlaif.rl.vllm_colocated import Colocated, Sampled
from morlaif.rl.vllm_server import Server

log = logging.getLogger(__name__)
# Nats a token, on average over a step, from which on what samples is taken for another model than the one that learns.
FAR = {torch.float32: 0.01, torch.bfloat16: 0.2}


class Sampler(Protocol):
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's weights, under transformers' names; of every rank."""
        ...

    def begin(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> Callable[[], list[Sampled]]:
        """One answer to each prompt, the same list on every rank, from whoever waits for it by calling what is given;
        where the sampler is elsewhere it works meanwhile."""
        ...


class VLLMRollout:
    """Temperature as in `generate`, no top-k or top-p, the same ends, a seed for each row from the generator.

    vLLM adds in another order than the trainer, so a token may now and then fall otherwise. What is learnt from is the
    training forward's log-probabilities; `compare` holds them against those of the sampler.
    """

    def __init__(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase, settings: PPOSettings, dtype: torch.dtype, keep: Path
    ) -> None:
        """Start the engine, or find the server. `dtype`: of the policy's computation; `keep`: where files may lie.

        Raises:
            UserError: vllm is not installed where it is needed, or cannot do what the settings want of it.
            MachineError: no server answers.
        """
        self.engine, self.dtype = engine, dtype
        self.ends = Ends.of(engine.models.model, tokenizer, settings.stop)
        ids = sorted(self.ends.turn.ids)
        if settings.vllm.mode == "server":
            self.sampler: Sampler = Server(engine, tokenizer, settings, ids, keep / "handed-over")
        else:
            if importlib.util.find_spec("vllm") is None:
                raise UserError("ppo.rollout: vllm is not installed; pip install vllm, or use ppo.rollout=transformers")
            self.sampler = Colocated(engine.models.model, settings, ids, dtype)
        self.sampled: Sequence[Sequence[float]] = []

    def sample(self, prompts: Sequence[list[int]], generator: torch.Generator, group: int = 1) -> list[list[int]]:
        """See `Rollout`."""
        rows, self.sampled = self.begin(prompts, generator, group)()
        return rows

    def begin(self, prompts: Sequence[list[int]], generator: torch.Generator, group: int = 1) -> Finish:
        """See `Rollout`. The weights are taken over before this returns, so that what learns may move them."""
        with self.engine.models.plain():
            self.sampler.load(_weights(self.engine, self.dtype))
        seeds = torch.randint(2**31 - 1, (len(prompts),), generator=generator, device=generator.device).tolist()
        finish = self.sampler.begin(prompts, seeds)

        def finished() -> tuple[list[list[int]], list[list[float]]]:
            found = finish()
            rows = [self._ended(one.ids) for one in found]
            return rows, [one.logprobs[: len(row)] for one, row in zip(found, rows, strict=True)]

        return finished

    def compare(self, policy: Tensor, reference: Tensor) -> dict[str, float]:
        """The sampler's log-probabilities of what it sampled last, beside the trainer's (B, T): for the log.

        Raises:
            MachineError: they are another model's, or still those of the policy that the run began with.
        """
        own, known = sampler_table(self.sampled, policy)
        found = mismatch(policy, own, known)
        if not found:
            return {}
        gap, most = found["sampler/gap"], found["sampler/gap_max"]
        behind = (own - reference)[known].abs().mean().item()
        gaps = (
            f"its log-probabilities differ from the policy's by {gap:.2g} nats a token on average, {most:.2g} at most"
        )
        if gap > FAR.get(self.dtype, FAR[torch.bfloat16]):
            raise MachineError(f"ppo.rollout: vllm samples from another model than the one that learns: {gaps}")
        if gap > 1e-5 and gap > 2 * behind:  # what rounding leaves is as far from either
            raise MachineError(
                f"ppo.rollout: vllm did not take over the policy's weights: {gaps}, and from those of the policy that "
                f"the run began with by {behind:.2g}"
            )
        return found

    def _ended(self, ids: list[int]) -> list[int]:
        """To the first place that ends the row, as in `generate`."""
        return ids[: next((n for n in range(1, len(ids) + 1) if self.ends.ended(ids[:n])), len(ids))]


def _weights(engine: Engine, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Each weight once, whole, an adapter's part added in; vLLM ties what is tied. The policy stays as it is."""
    passed: set[int] = set()
    for name, parameter, value in sharded.merged(engine.models.model):
        if id(parameter) not in passed:
            passed.add(id(parameter))
            # the engine collects a layer's weights before it uses them, and a gathered one is gone by then
            yield name, value.to(dtype, copy=sharded.is_sharded(parameter))
