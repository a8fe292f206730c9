"""The engine under DeepSpeed's ZeRO: weights, gradients and moments lie in pieces on all ranks.

Policy, reference, critic and value head are one module, so one engine shards all of them. What differs from replicated
weights: DeepSpeed averages gradients over ranks where the trainer wants their sum, and whole weights or moments must be
asked for by all ranks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_grad,
    safe_set_full_optimizer_state,
    safe_set_local_grad,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.models.utils import add_hooks, remove_hooks

from morlaif import ranks, sharded
from morlaif.rl.engine import Engine
from morlaif.rl.experience import Batch
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import Learns

if TYPE_CHECKING:
    from accelerate import Accelerator


class DeepSpeedEngine(Engine):
    """See `Engine`. Stage 3 clips policy and critic apart, as that does; stages 1 and 2 clip them together."""

    def __init__(self, models: ActorCritic, settings: Learns, accelerator: Accelerator) -> None:
        super().__init__(models, settings, accelerator)
        self.sharded = accelerator.state.deepspeed_plugin.zero_stage == 3
        if self.sharded:
            _of_one_dtype([p for _, p in self._learning()])
        # The micro-batches of a minibatch are accumulated here, by telling DeepSpeed which one is the last.
        self.ds, self.optimizer = accelerator.prepare(models, self.optimizer)
        self.ds.optimizer.clip_grad = 0.0 if self.sharded else self.max_norm

    def __call__(self, batch: Batch, **how: bool) -> tuple[Tensor | None, ...]:
        return self.ds(batch, **how)

    def begin(self, batch: Batch) -> tuple[Tensor | None, ...]:
        return self(batch)  # DeepSpeed wants a backward pass right behind a forward with gradients

    def backward(self, loss: Tensor, last: bool) -> None:
        self.ds.set_gradient_accumulation_boundary(is_boundary=last)
        self.ds.backward(loss * ranks.count())

    def step(self, critic_only: bool = False) -> dict[str, Tensor | float]:
        norms: dict[str, Tensor | float] = {}
        if self.sharded:
            norms = {name: self._clip(params) for name, params in self.clipped_groups().items()}
        self.ds.step()
        if critic_only:  # a policy without gradients was stepped too, by nothing; Adam must not have counted that
            policy = {id(p) for p in self.models.groups()["policy"]}
            for params, flat in self._flats():
                if id(params[0]) in policy:
                    self._inner().state.pop(flat, None)
        return norms or {"grad_norm": float(self.ds.get_global_grad_norm())}

    def _clip(self, params: Sequence[nn.Parameter]) -> float:
        """`clip_grad_norm_` where each rank holds its piece of each gradient."""
        grads = [(p, safe_get_local_grad(p)) for p in params]
        squares = sum(grad.square().sum() for _, grad in grads)
        norm = ranks.total(squares).sqrt()
        scale = self.max_norm / (norm + 1e-6)
        if scale < 1:
            for p, grad in grads:
                safe_set_local_grad(p, grad * scale)
        return norm.item()

    @contextmanager
    def sampling(self) -> Iterator[PreTrainedModel]:
        """Without DeepSpeed's hooks, which expect the order of the training forward."""
        if not self.sharded:
            yield self.models.model
            return
        remove_hooks(self.ds)
        try:
            yield self.models.model
        finally:
            add_hooks(self.ds)

    def state(self) -> dict[str, Any]:
        weights, moments = {}, {}
        steps = self._steps()
        self._link()
        for name, p in self._learning():
            value = safe_get_full_fp32_param(p).view(sharded.shape(p))
            found = {}
            if id(p) in steps:
                found = {key: safe_get_full_optimizer_state(p, key).view_as(value).cpu() for key in sharded.MOMENTS}
                found["step"] = steps[id(p)]
            if ranks.is_first():  # alone it writes; all had to ask
                weights[name] = value.cpu()
                if found:
                    moments[name] = found
        return {"weights": weights, "moments": moments}

    def load(self, state: dict[str, Any]) -> None:
        self.load_weights(state["weights"])
        names = {id(p): name for name, p in self._learning()}
        for params, flat in self._flats():
            found = {id(p): state["moments"].get(names[id(p)]) for p in params}
            if None in found.values():
                continue  # not stepped yet
            step = found[id(params[0])]["step"]
            # As Adam itself makes them at its first step.
            self._inner().state[flat] = {key: torch.zeros_like(flat) for key in sharded.MOMENTS}
            self._inner().state[flat]["step"] = step.to(flat.device, copy=True)
        self._link()
        for name, p in self._learning():
            for key in sharded.MOMENTS if name in state["moments"] else ():
                value = state["moments"][name][key].to(p.device)
                if self.sharded:
                    safe_set_local_optimizer_state(p, sharded.part(value, p), key)
                else:
                    safe_set_full_optimizer_state(p, value, key)

    def weights(self) -> dict[str, Tensor]:
        return sharded.values(self.models, self.ds.optimizer)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        sharded.set_values(self.models, self.ds.optimizer, weights)

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.models.named_parameters() if p.requires_grad]

    def _inner(self) -> torch.optim.Optimizer:
        return self.ds.optimizer.optimizer

    def _flats(self) -> list[tuple[list[nn.Parameter], Tensor]]:
        """The flat parts that the optimizer sees, each with the weights in it; all of one parameter group."""
        ds = self.ds.optimizer
        if self.sharded:
            return list(zip(ds.fp16_groups, ds.fp32_partitioned_groups_flat, strict=True))
        return list(zip(ds.bit16_groups, ds.single_partition_of_fp32_groups, strict=True))

    def _link(self) -> None:
        """Stages 1 and 2: let each weight find its moments; DeepSpeed does so too early for all but the first group."""
        if not self.sharded and all(flat in self._inner().state for _, flat in self._flats()):
            self.ds.optimizer._hp_optimizer_states_linked = False
            self.ds.optimizer._lazy_init_hp_params_optimizer_state()

    def _steps(self) -> dict[int, Tensor]:
        """Updates so far, as Adam counts them, by the `id` of each weight that had any."""
        state = self._inner().state
        return {
            id(p): torch.as_tensor(state[flat]["step"], dtype=torch.float32).cpu().clone()
            for params, flat in self._flats()
            if "step" in state.get(flat, {})
            for p in params
        }


def _of_one_dtype(learning: Sequence[nn.Parameter]) -> None:
    """Stage 3 keeps all that learns in one buffer, and casts nothing beside weights that were loaded in parts.

    So a float32 head or adapter beside bfloat16 weights becomes bfloat16 too; all have float32 originals.
    """
    if len({p.dtype for p in learning}) > 1:
        for p in learning:
            p.data = p.data.to(torch.bfloat16)
