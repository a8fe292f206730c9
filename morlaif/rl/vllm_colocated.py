"""vLLM in the processes that train, through its own `LLM`: weights go over by name, in memory.

Tried with vLLM 0.32 on a CPU. `reload_weights` packs each layer anew, which writing into the engine's parameters does
not: on a CPU the products read a packed copy, and would go on with the old weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from morlaif import ranks
from morlaif.errors import MachineError, UserError
from morlaif.models.open import open_config
from morlaif.models.place import Source
from morlaif.rl.settings import PPOSettings

CPU_CACHE = 2**30  # bytes of keys and values on a CPU, where VLLM_CPU_KVCACHE_SPACE says no other number


class Sampled(NamedTuple):
    ids: list[int]  # all that the engine sampled, with what ended it
    logprobs: list[float]  # of each, at the sampling temperature


class Colocated:
    """One engine in each process, or one over the processes of a tensor-parallel group."""

    def __init__(self, model: PreTrainedModel, settings: PPOSettings, ends: Sequence[int], dtype: torch.dtype) -> None:
        """The engine starts with weights of its own: `load` comes before the first sample.

        Raises:
            UserError: the ranks do not come out even in groups, or vLLM cannot run this model.
        """
        self.settings, self.ends, self.cpu = settings, list(ends), model.device.type == "cpu"
        self.group = settings.vllm.tensor_parallel_size
        if ranks.count() % self.group:
            raise UserError(f"ppo.vllm.tensor_parallel_size: {self.group} does not divide {ranks.count()} processes")
        self.sleeps = settings.vllm.sleep and not self.cpu
        _prepare(self.cpu)
        devices = [] if self.cpu else [model.device]
        with torch.random.fork_rng(devices=devices):  # it seeds them
            from vllm import LLM

            try:
                self.llm = LLM(**self._arguments(model, dtype))
            except Exception as error:
                raise _unable(f"vllm cannot run {model.name_or_path}", error) from error
        if self.sleeps:
            self.llm.sleep(level=2)

    def _arguments(self, model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Any]:
        s, v = self.settings, self.settings.vllm
        found: dict[str, Any] = {
            "model": model.name_or_path,
            "hf_overrides": _overrides(model),
            "load_format": "dummy",  # every weight comes from the policy
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": s.max_prompt_length + s.max_new_tokens,
            "max_num_seqs": v.max_num_seqs,
            "tensor_parallel_size": self.group,
            "enable_sleep_mode": self.sleeps,
            "logprobs_mode": "processed_logprobs",  # at the sampling temperature
            "seed": ranks.rank() // self.group,
        }
        if ranks.count() > 1:
            found["distributed_executor_backend"] = "external_launcher"
        if not self.cpu:
            return found | {"gpu_memory_utilization": v.gpu_memory_utilization}
        cache = {} if os.environ.get("VLLM_CPU_KVCACHE_SPACE") else {"kv_cache_memory_bytes": CPU_CACHE}
        return found | cache | {"enforce_eager": True}  # compiling takes longer than a small run

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's weights, under the names that transformers gives them."""
        if self.sleeps:
            torch.cuda.empty_cache()
            self.llm.wake_up(tags=["weights"])
        try:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        except Exception as error:
            raise _unable("vllm does not take over the policy's weights", error) from error
        if self.cpu:
            self.llm.apply_model(_pack_tied_head)
        self.llm.reset_prefix_cache()  # keys and values of the weights before

    def begin(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> Callable[[], list[Sampled]]:
        """It has the devices of those that learn: all is done when this returns."""
        found = self.sample(prompts, seeds)
        return lambda: found

    def sample(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Sampled]:
        """One answer to each prompt of all ranks; each group of ranks samples its share."""
        from vllm import SamplingParams

        group, groups = ranks.rank() // self.group, ranks.count() // self.group
        own = range(group, len(prompts), groups)
        if self.sleeps:
            self.llm.wake_up(tags=["kv_cache"])
        s = self.settings
        how = [
            SamplingParams(
                temperature=s.temperature, top_p=1.0, top_k=0, max_tokens=s.max_new_tokens, seed=seeds[row], logprobs=0,
                stop=s.stop, stop_token_ids=self.ends, skip_special_tokens=False,
            )
            for row in own
        ]  # fmt: skip
        given = [{"prompt_token_ids": list(prompts[row])} for row in own]
        try:
            outputs = [found.outputs[0] for found in self.llm.generate(given, how, use_tqdm=False)] if given else []
        except Exception as error:
            raise MachineError(f"ppo.rollout: vllm failed while it sampled: {_words(error)}") from error
        if self.sleeps:
            self.llm.sleep(level=2)
        mine = [Sampled(list(one.token_ids), _logprobs(one)) for one in outputs]
        parts = ranks.gather(mine)[:: self.group]  # the ranks of a group have the same
        return [parts[row % groups][row // groups] for row in range(len(prompts))]


def _prepare(cpu: bool) -> None:
    """The environment that vLLM reads when it is imported; what the user has set stays."""
    usual = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if cpu:
        usual["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # the cores are the trainer's too
    for name, value in usual.items():
        os.environ.setdefault(name, value)


def _overrides(model: PreTrainedModel) -> dict[str, Any]:
    """What the engine's config has otherwise than the one on disk: a vocabulary to which a pad token was added."""
    name, own = model.name_or_path, model.config.get_text_config().vocab_size
    stored = open_config(Source(name))  # vLLM runs no code of a model's
    if stored.get_text_config().vocab_size == own:
        return {}
    if stored.get_text_config() is not stored:
        raise UserError(
            f"ppo.rollout: vllm loads {name} with another vocabulary than the policy's {own} (a pad token was added): "
            "train an SFT model first (sft=full), which saves the larger one"
        )
    return {"vocab_size": own}


def _pack_tied_head(model: nn.Module) -> None:
    """On a CPU a head tied to the embeddings multiplies by a packed copy of its own, which reloading leaves old."""
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if method is not None and getattr(head, "cpu_linear", None) is not None:
        method.process_weights_after_loading(head)


def _logprobs(output: Any) -> list[float]:
    return [found[token].logprob for token, found in zip(output.token_ids, output.logprobs, strict=True)]


def _unable(what: str, error: Exception) -> UserError:
    return UserError(f"ppo.rollout: {what}: {_words(error)}; use ppo.rollout=transformers")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
