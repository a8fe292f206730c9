"""The engine under DeepSpeed's ZeRO: weights, gradients and moments lie in pieces on all ranks.

Policy, reference, critic and value head are one module, so one engine shards all of them. What differs from replicated
weights: DeepSpeed averages gradients over ranks where the trainer wants their sum, and whole weights or moments must be
asked for by all ranks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_grad,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_grad,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from trl.models.utils import add_hooks, remove_hooks

from morlaif import ranks
from morlaif.rl.engine import Engine
from morlaif.rl.experience import Batch
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import PPOSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedEngine(Engine):
    """See `Engine`. Stage 3 clips policy and critic apart, as that does; stages 1 and 2 clip them together."""

    def __init__(self, models: ActorCritic, settings: PPOSettings, accelerator: Accelerator) -> None:
        super().__init__(models, settings, accelerator)
        self.sharded = accelerator.state.deepspeed_plugin.zero_stage == 3
        # The micro-batches of a minibatch are accumulated here, by telling DeepSpeed which one is the last.
        self.ds, self.optimizer = accelerator.prepare(models, self.optimizer)
        self.ds.optimizer.clip_grad = 0.0 if self.sharded else self.max_norm

    def __call__(self, batch: Batch, **how: bool) -> tuple[Tensor | None, ...]:
        return self.ds(batch, **how)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.ds.set_gradient_accumulation_boundary(is_boundary=last)
        self.ds.backward(loss * ranks.count())

    def step(self) -> dict[str, float]:
        norms = {}
        if self.sharded:
            norms = {name: self._clip(params) for name, params in self.clipped_groups().items()}
        self.ds.step()
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
    def whole(self) -> Iterator[ActorCritic]:
        if not self.sharded:
            yield self.models
            return
        with deepspeed.zero.GatheredParameters(list(self.models.parameters())):
            remove_hooks(self.ds)
            try:
                yield self.models
            finally:
                add_hooks(self.ds)

    def state(self) -> dict[str, Any]:
        weights, moments = {}, {}
        step = self._steps()
        for name, p in self._learning():
            value = safe_get_full_fp32_param(p)
            found = {key: safe_get_full_optimizer_state(p, key) for key in MOMENTS}
            if ranks.is_first():  # alone it writes; all had to ask
                weights[name] = value.view(p.ds_shape if self.sharded else p.shape).cpu()
                if step is not None:
                    moments[name] = {key: x.view_as(weights[name]).cpu() for key, x in found.items()} | {"step": step}
        return {"weights": weights, "moments": moments}

    def load(self, state: dict[str, Any]) -> None:
        self.load_weights(state["weights"])
        if not state["moments"]:
            return
        step = next(iter(state["moments"].values()))["step"]
        inner = self._inner()
        flats = [p for group in inner.param_groups for p in group["params"]]  # stage 3 empties these between steps
        for flat in self.ds.optimizer.fp32_partitioned_groups_flat if self.sharded else flats:
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}  # as Adam itself would at its first step
            inner.state[flat] = moments | {"step": step.to(flat.device, copy=True)}
        for name, p in self._learning():
            for key in MOMENTS:
                value = state["moments"][name][key].to(p.device)
                if self.sharded:
                    safe_set_local_optimizer_state(p, self._piece(value), key)
                else:
                    safe_set_full_optimizer_state(p, value, key)

    def weights(self) -> dict[str, Tensor]:
        found = {}
        for name, p in self._learning():
            value = safe_get_full_fp32_param(p)
            found[name] = value.view(p.ds_shape if self.sharded else p.shape).cpu().clone()
        return found

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        for name, p in self._learning():
            value = weights[name].to(p.device)
            if self.sharded:  # what the optimizer moves …
                safe_set_local_fp32_param(p, self._piece(value))
            else:
                safe_set_full_fp32_param(p, value)
            with deepspeed.zero.GatheredParameters([p], modifier_rank=0, enabled=self.sharded), torch.no_grad():
                p.copy_(value)  # … and what the forward reads

    @staticmethod
    def _piece(value: Tensor) -> Tensor:
        """This rank's part of a weight; the last one is padded."""
        flat = value.flatten()
        size = -(-flat.numel() // ranks.count())
        flat = torch.cat([flat, flat.new_zeros(size * ranks.count() - flat.numel())])
        return flat[ranks.rank() * size :][:size]

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.models.named_parameters() if p.requires_grad]

    def _inner(self) -> torch.optim.Optimizer:
        return self.ds.optimizer.optimizer

    def _steps(self) -> Tensor | None:
        """Updates so far, as Adam counts them; None before the first."""
        for moments in self._inner().state.values():
            if "step" in moments:
                return torch.as_tensor(moments["step"], dtype=torch.float32).cpu().clone()
        return None
