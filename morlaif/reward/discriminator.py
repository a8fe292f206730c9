"""Reward from a discriminator that tells demonstrations from the policy's own samples (RLGAF, arXiv 2305.06176).

The discriminator is a logistic regression on states of the frozen SFT model. It is fitted first to the responses that
it is asked about first, those of the SFT policy, and anew, from the policy's latest samples, every few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.reward.settings import DiscriminatorReward

Prompts = Sequence[list[Message]]
Encode = Callable[[Prompts, Sequence[str]], Tensor]  # prompts, responses -> (B, H)


class Boundary(NamedTuple):
    """A logistic regression on standardised states."""

    mean: Tensor  # (H,)
    scale: Tensor  # (H,)
    weight: Tensor  # (H,)
    bias: Tensor  # ()

    def log_odds(self, states: Tensor) -> Tensor:
        """(B, H) -> (B,): of being a demonstration."""
        return ((states.double() - self.mean) / self.scale) @ self.weight + self.bias


def fit(demonstrations: Tensor, samples: Tensor, ridge: float) -> Boundary:
    """The minimum over (w, b) of the mean cross-entropy of both classes, each counting one half, + ridge/2 ‖w‖².

    Args:
        demonstrations: (N, H) states; samples: (M, H). Both are standardised by the mean and deviation of all.
        ridge: above 0, so that there is one minimum, however well they can be told apart.
    """
    states = torch.cat([demonstrations, samples]).double()
    mean, spread = states.mean(0), states.std(0, correction=0)
    scale = torch.where(spread > 1e-8, spread, torch.ones_like(spread))
    x = (states - mean) / scale
    real = torch.cat([x.new_ones(len(demonstrations)), x.new_zeros(len(samples))])
    each = torch.where(real > 0, 0.5 / len(demonstrations), 0.5 / len(samples))
    solution = torch.zeros(x.shape[1] + 1, dtype=torch.float64, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [solution], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        logits = x @ solution[:-1] + solution[-1]
        value = binary_cross_entropy_with_logits(logits, real, each, reduction="sum")
        value = value + ridge / 2 * solution[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    found = solution.detach()
    return Boundary(mean, scale, found[:-1], found[-1])


class DiscriminatorScores:
    """The log-odds that a response is a demonstration: one column."""

    def __init__(
        self,
        names: tuple[str, ...],
        settings: DiscriminatorReward,
        encode: Encode,
        prompts: Prompts,
        texts: Sequence[str],
    ) -> None:
        """`prompts`, `texts`: the demonstrations.

        Raises:
            UserError: there are none.
        """
        if not texts:
            raise UserError("reward.kind=discriminator: the data's split 'train' has no demonstrations to learn from")
        self.names, self._settings, self._encode = names, settings, encode
        self._demonstrations = encode(prompts, texts)
        self._boundary: Boundary | None = None
        self._recent: Tensor | None = None  # (N, H) states of the policy's latest samples
        self._steps = 0

    def __call__(self, prompts: Prompts, responses: Sequence[str]) -> Tensor:
        states = self._encode(prompts, responses)
        if self._boundary is None:
            self._boundary = fit(self._demonstrations, states, self._settings.ridge)
        return self._boundary.log_odds(states).float()[:, None]

    def observe(self, prompts: Prompts, responses: Sequence[str]) -> None:
        """Take in one step's samples of the policy, after they were scored; every few steps, learn from the latest."""
        states = self._encode(prompts, responses)
        kept = states if self._recent is None else torch.cat([self._recent, states])
        self._recent = kept[-self._settings.recent :]
        self._steps += 1
        if self._steps % self._settings.every == 0:
            self._boundary = fit(self._demonstrations, self._recent, self._settings.ridge)

    def take_facts(self) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        boundary = None if self._boundary is None else tuple(self._boundary)
        return {"boundary": boundary, "recent": self._recent, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._boundary = None if state["boundary"] is None else Boundary(*state["boundary"])
        self._recent, self._steps = state["recent"], state["steps"]
