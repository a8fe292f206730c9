"""How the losses of a learner become updates of its weights, on one rank or several, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler

from morlaif import ranks, sharded
from morlaif.preference.learners import FullLearner, Learner
from morlaif.preference.settings import TrainedPM

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
Pick = Callable[[Tensor], Tensor]


def make_updates(learner: Learner, settings: TrainedPM, steps: int) -> Updates:
    return (
        FullUpdates(learner, settings, steps) if isinstance(learner, FullLearner) else Updates(learner, settings, steps)
    )


class Updates:
    """AdamW over weights that every rank holds whole (adapters and heads), all of them making the same step."""

    def __init__(self, learner: Learner, settings: TrainedPM, steps: int) -> None:
        self.learner, self.max_norm = learner, settings.max_grad_norm
        trunk, heads = learner.groups()
        self.learning = [*trunk, *heads]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": trunk, "lr": settings.learning_rate},
                {"params": heads, "lr": settings.head_learning_rate},
            ],
            weight_decay=settings.weight_decay,
        )
        warmup = min(settings.warmup_steps, steps // 2)
        self.schedule = get_scheduler(
            SCHEDULES[settings.schedule], self.optimizer, num_warmup_steps=warmup, num_training_steps=steps
        )

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of `loss`, this rank's part of a sum over ranks. `last`: `step` follows."""
        loss.backward()

    def step(self) -> None:
        """Clip, update, forget the gradients.

        Where a batch has no verdict at all the moments move on by a gradient of zero: so they do where other principles
        or ranks share the step.
        """
        for weight in self.learning:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        ranks.sum_gradients(self.learning)
        self.learner.clip(self.max_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def copy(self, k: int) -> list[Tensor]:
        """Copies, on the host, of the weights that principle `k` depends on."""
        return [weight.cpu().clone() for weight in self.learner.weights(k)]

    @torch.no_grad()
    def put(self, k: int, weights: Sequence[Tensor]) -> None:
        """Put back what `copy` gave."""
        for own, kept in zip(self.learner.weights(k), weights, strict=True):
            own.copy_(kept)

    def state(self, done: bool) -> dict[str, Any]:
        """Tensors, numbers and containers of them. When `done`, only the weights."""
        state: dict[str, Any] = {"weights": [weight.detach() for weight in self.learning]}
        if not done:
            state |= {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        return state

    @torch.no_grad()
    def load(self, state: dict[str, Any], done: bool, pick: Pick) -> None:
        """Put back what `state` gave; `pick` takes the rows of this learner's principles out of a tensor."""
        for weight, value in zip(self.learning, state["weights"], strict=True):
            weight.copy_(pick(value))
        if done:
            return
        moments = {
            place: {key: pick(value) if value.dim() else value for key, value in kept.items()}
            for place, kept in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**state["optimizer"], "state": moments})
        self.schedule.load_state_dict(state["schedule"])


class FullUpdates(Updates):
    """The same for a whole model, which on several ranks lies in parts (DeepSpeed's ZeRO). Its state does not depend on
    how many ranks there are."""

    learner: FullLearner

    def __init__(self, learner: FullLearner, settings: TrainedPM, steps: int) -> None:
        super().__init__(learner, settings, steps)
        self.engine: Any = None
        self.inner: Any = self.optimizer  # that has the moments
        if (accelerator := sharded.accelerator()) is None:
            return
        self.engine, _ = accelerator.prepare(learner.run, self.optimizer)
        if self.engine.zero_optimization_stage() == 3:
            sharded.assert_sharded(learner.model)
        learner.run, self.inner = self.engine, self.engine.optimizer
        self.inner.clip_grad = self.max_norm

    def backward(self, loss: Tensor, last: bool) -> None:
        if self.engine is None:
            super().backward(loss, last)
            return
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        self.engine.backward(loss * ranks.count(), scale_wrt_gas=False)  # DeepSpeed takes the mean over ranks

    def step(self) -> None:
        if self.engine is None:
            super().step()
            return
        self.engine.step()
        self.schedule.step()

    def copy(self, k: int) -> list[Tensor]:
        return list(sharded.values(self.learner.model, self.inner).values())

    def put(self, k: int, weights: Sequence[Tensor]) -> None:
        names = [name for name, weight in self.learner.model.named_parameters() if weight.requires_grad]
        sharded.set_values(self.learner.model, self.inner, dict(zip(names, weights, strict=True)))

    def state(self, done: bool) -> dict[str, Any]:
        if done:
            return {"values": sharded.values(self.learner.model, self.inner, everywhere=False)}
        return {
            "training": sharded.training_state(self.learner.model, self.inner),
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state: dict[str, Any], done: bool, pick: Pick) -> None:
        if done:
            sharded.set_values(self.learner.model, self.inner, state["values"])
            return
        sharded.load_training_state(self.learner.model, self.inner, state["training"])
        self.schedule.load_state_dict(state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
