"""Step 5 of PPO: several passes over one experience."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor

from morlaif import ranks
from morlaif.rl.engine import Engine
from morlaif.rl.experience import Experience, Minibatch
from morlaif.rl.kl import ESTIMATORS
from morlaif.rl.losses import Actions, beyond_clip, value_loss
from morlaif.rl.registry import PolicyLoss
from morlaif.rl.settings import PPOSettings

N = TypeVar("N", Tensor, "Tensor | float")


class Tally:
    """Sums of what the updates showed: over the tokens of this rank, or over updates.

    They stay tensors until `means`: a number read at each micro-batch would make a GPU wait for the CPU.
    """

    def __init__(self) -> None:
        self.tokens = self.updates = 0  # tokens of all ranks
        self.sums: dict[str, Tensor] = {}
        self.norms: dict[str, Tensor | float] = {}
        self.ratios: list[Tensor] = []  # largest |ratio - 1| before the first update: 0, or something is wrong

    def add(self, **sums: Tensor) -> None:
        _add(self.sums, {name: value.detach().double() for name, value in sums.items()})

    def updated(self, tokens: int, norms: dict[str, Tensor | float]) -> None:
        self.tokens += tokens
        self.updates += 1
        _add(self.norms, norms)

    def means(self) -> dict[str, float]:
        """The same on all ranks."""
        sums = ranks.added({name: value.item() for name, value in self.sums.items()})
        rows = {name: value / max(1, self.tokens) for name, value in sums.items()}
        rows |= {name: float(value) / self.updates for name, value in self.norms.items()}
        ratios = ranks.concatenate([ratio.item() for ratio in self.ratios])
        return rows | ({"first_ratio_error": max(ratios)} if ratios else {})


def _add(sums: dict[str, N], more: dict[str, N]) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


def optimize(
    engine: Engine,
    experience: Experience,
    passes: Sequence[Sequence[Minibatch]],
    rates: Sequence[dict[str, float]],
    settings: PPOSettings,
    *,
    policy_loss: PolicyLoss,
    kl_coef: float,
    critic_only: bool,
    autocast: AbstractContextManager[object],
) -> dict[str, float]:
    """Update the models once for each minibatch; the means of what was seen, for the log.

    Args:
        passes: epochs of minibatches.
        rates: the learning rate of each parameter group, for each update.
        policy_loss: of each token; see `morlaif.rl.losses`.
        kl_coef: price of the KL inside the loss; 0 when the reward carries it.
        critic_only: leave the policy as it is.
    """
    tally = Tally()
    updates = iter(rates)
    with engine.models.updating():
        for minibatch in (minibatch for epoch in passes for minibatch in epoch):
            engine.set_rates(next(updates) | ({"policy": 0.0} if critic_only else {}))
            for i in range(len(minibatch.micro)):
                with autocast:
                    loss = _loss(engine, experience, minibatch, i, settings, policy_loss, kl_coef, critic_only, tally)
                # One normaliser for the minibatch, so that how it is cut into micro-batches and shared between ranks
                # cannot matter.
                engine.backward(loss / minibatch.tokens, last=i == len(minibatch.micro) - 1)
            tally.updated(minibatch.tokens, engine.step(critic_only))
    return tally.means()


def _loss(
    engine: Engine,
    experience: Experience,
    minibatch: Minibatch,
    micro: int,
    settings: PPOSettings,
    policy_loss: PolicyLoss,
    kl_coef: float,
    critic_only: bool,
    tally: Tally,
) -> Tensor:
    """Sum of the losses of the tokens of one micro-batch."""
    rows, batch = minibatch.micro[micro]

    def at(table: Tensor) -> Tensor:  # (B, T) -> (N,), the order of the batch's targets
        return table[rows][:, : batch.mask.shape[1]][batch.mask]

    logprobs, entropy, values = engine(batch, freeze_trunk=critic_only)
    if not rows:
        return 0.0 * torch.stack([x.sum() for x in (logprobs, values) if x is not None]).sum()
    loss = torch.zeros((), device=batch.ids.device)
    if logprobs is not None:
        old, advantages, ref = at(experience.logprobs), at(experience.advantages), at(experience.ref_logprobs)
        response = torch.arange(len(rows), device=old.device)[:, None].expand(batch.mask.shape)[batch.mask]
        if minibatch.states > minibatch.tokens:  # the state after EOS has a value and no token
            is_token = at(experience.mask)
            logprobs, old, advantages, ref = (x[is_token] for x in (logprobs, old, advantages, ref))
            response = response[is_token]
            entropy = None if entropy is None else entropy[is_token]
        actions = Actions(logprobs, old, ref, advantages, response, settings.clip_range)
        policy = policy_loss(actions).sum()
        loss = loss + policy
        with torch.no_grad():
            moved = (logprobs - old).detach()
            tally.add(policy_loss=policy, clip_fraction=beyond_clip(actions).sum(), step_kl=0.5 * moved.square().sum())
            if tally.updates == 0:
                tally.ratios.append(moved.exp().sub(1).abs().max())
        if kl_coef:
            estimate = ESTIMATORS[settings.kl.estimator](logprobs, ref).sum()
            loss = loss + kl_coef * estimate
            tally.add(kl_loss=estimate)
        if settings.entropy_coef and entropy is not None:
            loss = loss - settings.entropy_coef * entropy.sum()
    if values is not None:
        before, returns = at(experience.values), at(experience.returns)
        value = value_loss(values, before, returns, settings.clip_range_value).sum()
        value = value * (minibatch.tokens / minibatch.states)  # a mean of its own
        loss = loss + settings.value_coef * value
        tally.add(value_loss=value)
    return loss
