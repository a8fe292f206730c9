"""How the policy does on prompts that it never learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from morlaif.data.records import Message
from morlaif.rl.log import score_row
from morlaif.statistics import bootstrap_mean


@dataclass(frozen=True)
class Answers:
    """One answer to each of B held-out prompts. Plain lists, so that a checkpoint can hold it."""

    texts: list[str]
    scores: list[list[float]]  # (B, K), on the objective's frozen statistics
    reward: list[float]  # (B,) scalarized, before shaping and KL
    kl: float  # nats a sequence, as k1 estimates it
    length: float  # tokens, the one that ended it included
    ended: float  # share that ended by themselves
    raw: list[list[float]] = field(default_factory=list)  # (B, K) as the reward gave them

    def row(self, names: Sequence[str], clip: float | None) -> dict[str, float]:
        row = {"reward": self.mean_reward, "kl": self.kl, "length": self.length, "ended": self.ended}
        row |= score_row(torch.tensor(self.scores), names, clip)
        return {f"eval/{name}": value for name, value in row.items()}

    @property
    def mean_reward(self) -> float:
        return sum(self.reward) / len(self.reward)

    def state(self) -> dict[str, Any]:
        return asdict(self)


def gain_row(
    before: Answers, after: Answers, objective: Callable[[Tensor], Tensor], seed: int, confidence: float = 0.95
) -> dict[str, float]:
    """What the reward has gained on the same prompts, of both under the objective as it is now, with the bootstrap
    interval over prompts."""
    if len(before.raw) < 2:  # one prompt has no interval
        return {}
    gained = objective(torch.tensor(after.raw)) - objective(torch.tensor(before.raw))
    found = bootstrap_mean(gained.tolist(), seed=seed, confidence=confidence)
    return {"eval/gain": found.value, "eval/gain_low": found.low, "eval/gain_high": found.high}


def table(
    prompts: Sequence[list[Message]], before: Answers, after: Answers, names: Sequence[str], step: int, count: int
) -> list[dict[str, Any]]:
    """The first `count` prompts, answered before the first step and after `step` of them."""

    def named(scores: list[float]) -> Mapping[str, float]:
        return dict(zip(names, scores, strict=True))

    return [
        {
            "step": step,
            "prompt": prompts[i],
            "before": before.texts[i],
            "after": after.texts[i],
            "scores_before": named(before.scores[i]),
            "scores_after": named(after.scores[i]),
            "reward_before": before.reward[i],
            "reward_after": after.reward[i],
        }
        for i in range(count)
    ]
