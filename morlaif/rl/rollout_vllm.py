"""Sampling with vLLM, through TRL's `VLLMGeneration`: colocated in the training processes, or on a server."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.errors import UserError
from morlaif.models.generate import Ends
from morlaif.models.open import open_config
from morlaif.models.place import Source
from morlaif.rl.engine import Engine
from morlaif.rl.settings import PPOSettings


class VLLMRollout:
    """The engine gets the policy's weights before it samples, so it never lags behind an update or a resume.

    vLLM draws from a generator of its own: a run is not repeatable to the bit, as it is with transformers. All else is
    as there: temperature, no top-k or top-p, a row cut before its stop string, EOS put there.
    """

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, settings: PPOSettings) -> None:
        """Start or find the engine.

        Raises:
            UserError: vllm is not installed, the ranks cannot share the rows evenly, or the model on disk has another
                vocabulary than the policy.
        """
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                "ppo.rollout: vllm is not installed; pip install 'trl[vllm]', or use ppo.rollout=transformers"
            )
        s, group = settings.vllm, settings.samples_per_prompt
        for key, rows in (("rollouts", settings.rollouts // group), ("eval_prompts", settings.eval_prompts)):
            if rows % ranks.count():
                raise UserError(
                    f"ppo.{key}: {rows} prompts do not come out even on {ranks.count()} processes, which vllm needs"
                )
        if s.mode == "colocate" and ranks.count() % s.tensor_parallel_size:
            raise UserError(
                f"ppo.vllm.tensor_parallel_size: {s.tensor_parallel_size} does not divide {ranks.count()} processes"
            )
        _check_vocabulary(engine)
        self.ends = Ends(tokenizer, settings.stop)
        self.source = _source_class(engine)(
            model=engine.models.policy,
            accelerator=engine.accelerator(),
            processing_class=tokenizer,
            mode=s.mode,
            server_base_url=s.server_url,
            server_timeout=s.server_timeout,
            group_port=s.group_port,
            tensor_parallel_size=s.tensor_parallel_size,
            gpu_memory_utilization=s.gpu_memory_utilization,
            max_model_length=settings.max_prompt_length + settings.max_new_tokens,
            max_num_seqs=s.max_num_seqs,
            enable_sleep_mode=s.sleep,
            temperature=settings.temperature,
            top_p=1.0,
            top_k=0,
            max_completion_length=settings.max_new_tokens,
            logprobs=None,  # they come from the training forward
            generation_kwargs={"stop": settings.stop} if settings.stop else None,
        )

    def sample(self, prompts: Sequence[list[int]], generator: torch.Generator, group: int = 1) -> list[list[int]]:
        """See `Rollout`; `generator` is not used."""
        self.source.sync_weights()
        share = len(prompts) // ranks.count()  # neighbours, since a server samples a group at once
        own = list(prompts[ranks.rank() * share : (ranks.rank() + 1) * share])
        _, answers, _, _ = self.source.generate(own, None, group)
        return ranks.concatenate([self._ended(list(ids)) for ids in answers])

    def _ended(self, ids: list[int]) -> list[int]:
        """vLLM leaves the tokens of a stop string; the first place that ends the row is its end."""
        for length in range(1, len(ids) + 1):
            if (done := self.ends.cut(ids[:length])) is not None:
                return done
        return ids


def _source_class(engine: Engine) -> type:
    """TRL's class, but an adapter's weights go over a module at a time, and are not merged into the frozen base."""
    from trl.generation.vllm_generation import VLLMGeneration

    class Source(VLLMGeneration):
        def _iter_named_params(self) -> Iterator[tuple[str, Tensor]]:
            if not isinstance(self.model, PeftModel):
                yield from super()._iter_named_params()
                return
            told: set[int] = set()
            for name, parameter, value in sharded.merged(engine.models.model):
                if id(parameter) not in told:  # vLLM ties what is tied
                    told.add(id(parameter))
                    yield name, value.to(parameter.dtype)

    return Source


def _check_vocabulary(engine: Engine) -> None:
    model = engine.models.model
    stored = open_config(Source(model.name_or_path)).get_text_config().vocab_size  # vLLM runs no code of a model's
    own = model.config.get_text_config().vocab_size
    if stored != own:
        raise UserError(
            f"ppo.rollout: vllm loads {model.name_or_path} with a vocabulary of {stored}, and the policy has {own} "
            "(a pad token was added): train an SFT model first (sft=full), which saves the larger one"
        )
