"""What a step of one policy for all weights is told: `morlaif.steer` says how, this says which weights, and to whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from morlaif.data.records import Message
from morlaif.errors import UserError, suggest
from morlaif.rl import schedule
from morlaif.scalarize.objective import Objective
from morlaif.steer.conditioning import Shares, Steering, drawn
from morlaif.steer.parts import Parts
from morlaif.steer.settings import SteerSettings


def steering_of(objective: Objective, settings: SteerSettings, key: str = "ppo.steer") -> Steering | None:
    """How a policy with this objective takes its weights; None where it takes none.

    Raises:
        UserError: a principle that does not count in the objective, or less than two.
    """
    if settings.kind == "none":
        return None
    names = settings.principles or objective.active
    for name in names:
        if name not in objective.active:
            counting = ", ".join(objective.active)
            hint = suggest(name, objective.active)
            raise UserError(
                f"{key}.principles: '{name}' does not count in the arm's reward, which has {counting}{hint}"
            )
    if len(names) < 2:
        raise UserError(f"{key}: the arm's reward has '{names[0]}' alone; weights are of two principles or more")
    own = [objective.weight[objective.names.index(name)].item() for name in names]
    return Steering(settings.kind, tuple(names), tuple(weight / sum(own) for weight in own), settings.steps)


@dataclass(frozen=True)
class Steered:
    """A policy that learns to take its weights, those of a prompt and a step drawn by `seed` and the step alone.

    As text each prompt has weights of its own, the same for all responses to it. Rank-one parts have one scale in a
    forward, so there each step has one (as Panacea's does), and a look at held-out prompts is at the arm's own weights.
    """

    steering: Steering
    alpha: float
    seed: int
    parts: Parts | None = None  # where the kind is lora

    def weights(self, step: int, prompts: int, group: int) -> list[Shares]:
        """(prompts · group, K) of a step's responses; of all ranks, whoever samples which."""
        count = prompts if self.parts is None else 1
        seed, steps = schedule.derive_seed(self.seed, "weights", step), self.steering.steps
        found = drawn(seed, count, len(self.steering.names), self.alpha, steps)
        return [row for row in found for _ in range(group if self.parts is None else prompts * group)]

    def held_out(self, prompts: int) -> list[Shares]:
        """(prompts, K), the same at every look."""
        if self.parts is not None:
            return [self.steering.own] * prompts
        seed = schedule.derive_seed(self.seed, "held-out weights", 0)
        return drawn(seed, prompts, len(self.steering.names), self.alpha, self.steering.steps)

    def told(self, messages: Sequence[Message], shares: Shares) -> list[Message]:
        return self.steering.told(messages, dict(zip(self.steering.names, shares, strict=True)))

    def objective(self, objective: Objective, shares: Sequence[Shares]) -> Objective:
        """`objective` by each response's own weights, (B, K) shares of what the told principles weigh together, so that
        the arm's own weights give the arm's own objective."""
        places = [objective.names.index(name) for name in self.steering.names]
        whole = objective.weight.double()
        rows = whole.repeat(len(shares), 1)
        rows[:, places] = torch.tensor(shares, dtype=torch.float64) * whole[places].sum()
        return objective.at(rows)

    @contextmanager
    def at(self, shares: Sequence[Shares]) -> Iterator[None]:
        """The policy at the weights of a step's responses."""
        if self.parts is None:
            yield
            return
        with self.parts.at(shares[0]):
            yield

    def row(self, shares: Sequence[Shares], normal: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Of the log: each principle's mean weight, and how its scores (B, K) go with it over the step's responses."""
        table = torch.tensor(shares, dtype=torch.float64)
        found = {}
        for name, weight in zip(self.steering.names, table.unbind(1), strict=True):
            found[f"weight/{name}"] = weight.mean().item()
            both = torch.stack([weight, normal[:, list(names).index(name)].double().cpu()])
            if bool((both.std(1) > 0).all()):
                found[f"follows/{name}"] = torch.corrcoef(both)[0, 1].item()
        return found
