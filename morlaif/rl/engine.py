"""How a loss becomes an update: replicated weights in one or many processes, or sharded ones under an Accelerator.

The trainer knows three things of it: forwards go through `engine(batch)`, an update is `set_rates`, some `backward`,
one `step`; and whoever runs the policy otherwise asks for it with `sampling()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from morlaif import ranks
from morlaif.rl.experience import Batch
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import Learns, OptimizerSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_optimizer(models: ActorCritic, settings: OptimizerSettings) -> torch.optim.AdamW:
    """One AdamW with a parameter group for the policy and one for the critic."""
    groups = [{"params": params, "name": name} for name, params in models.groups().items() if params]
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


class Engine:
    """Every rank holds all weights; gradients are summed over ranks before each update, which all make alike."""

    def __init__(self, models: ActorCritic, settings: Learns, accelerator: Accelerator | None = None) -> None:
        self.models = models
        self.max_norm = settings.optimizer.max_grad_norm
        self.optimizer = make_optimizer(models, settings.optimizer)
        self._accelerator = accelerator
        self._begun: tuple[Batch, tuple[Tensor | None, ...]] | None = None

    def __call__(self, batch: Batch, **how: bool) -> tuple[Tensor | None, ...]:
        """`ActorCritic.forward`."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] is batch and torch.is_grad_enabled() and not any(how.values()):
            return begun[1]
        return self.models(batch, **how)

    def begin(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """Policy and critic as they are, entropies too, where the next call is the update's first, of this very batch:
        that gets the same forward, with its gradients, and need not repeat it.
        """
        if self.models.checkpointing:  # in another mode, and without what a backward pass wants
            return self(batch)
        with torch.enable_grad():
            result = self.models(batch, entropies=True)
        self._begun = batch, result
        return tuple(None if x is None else x.detach() for x in result)

    def set_rates(self, rates: dict[str, float]) -> None:
        """The learning rates of the update that the next `backward` begins, by parameter group."""
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of `loss`, this rank's part of a sum over ranks. `last`: `step` follows."""
        loss.backward()

    def step(self, critic_only: bool = False) -> dict[str, Tensor | float]:
        """Clip, update, forget the gradients; the norms before the clip. `critic_only`: the policy had none.

        A separate critic is clipped by itself, a shared one with the trunk.
        """
        groups = self.clipped_groups()
        ranks.sum_gradients([p for params in groups.values() for p in params])
        norms: dict[str, Tensor | float] = {
            name: nn.utils.clip_grad_norm_(params, self.max_norm) for name, params in groups.items()
        }
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norms

    def clipped_groups(self) -> dict[str, list[nn.Parameter]]:
        """Which weights are clipped together, under the name of their norm."""
        groups = self.models.groups()
        if self.models.critic is None:
            return {"grad_norm": groups["policy"] + groups["critic"]}
        return {"grad_norm": groups["policy"], "critic_grad_norm": groups["critic"]}

    @contextmanager
    def sampling(self) -> Iterator[PreTrainedModel]:
        """The policy, for forwards that are not this engine's."""
        yield self.models.model

    def state(self) -> dict[str, Any]:
        """Weights that learn and the optimizer's moments, by name, so that any engine and any number of ranks can read
        them: the same tensors, not copies. All ranks ask, the first one gets them."""
        names = {id(p): name for name, p in self.models.named_parameters()}
        moments = {names[id(p)]: dict(found) for p, found in self.optimizer.state.items()}
        return {"weights": self.models.trained_state(), "moments": moments}

    def load(self, state: dict[str, Any]) -> None:
        self.models.load_trained_state(state["weights"])
        for name, p in self.models.named_parameters():
            if name in state["moments"]:
                found = state["moments"][name]
                self.optimizer.state[p] = {key: value.to(p.device).clone() for key, value in found.items()}

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights that learn, on the CPU."""
        return {name: value.cpu().clone() for name, value in self.models.trained_state().items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        self.models.load_trained_state(weights)

    def accelerator(self) -> Accelerator:
        """For libraries that ask for one."""
        if self._accelerator is None:
            from accelerate import Accelerator

            self._accelerator = Accelerator()
        return self._accelerator
