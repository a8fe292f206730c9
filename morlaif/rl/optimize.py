"""Step 5 of PPO: several passes over one experience."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from morlaif.rl import losses
from morlaif.rl.experience import Batch, Experience
from morlaif.rl.kl import ESTIMATORS
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import OptimizerSettings, PPOSettings


class Tally:
    """Sums of what the updates showed, over tokens and over updates."""

    def __init__(self) -> None:
        self.tokens = self.updates = 0
        self.sums: dict[str, float] = {}
        self.first_ratio: float | None = None  # largest |ratio - 1| before the first update: 0, or something is wrong

    def add(self, tokens: int = 0, updates: int = 0, **sums: float) -> None:
        self.tokens += tokens
        self.updates += updates
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        per = {"grad_norm": self.updates, "critic_grad_norm": self.updates}
        rows = {name: value / max(1, per.get(name, self.tokens)) for name, value in self.sums.items()}
        return rows | ({} if self.first_ratio is None else {"first_ratio_error": self.first_ratio})


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


def optimize(
    models: ActorCritic,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    passes: Sequence[Sequence[Sequence[tuple[Sequence[int], Batch]]]],
    rates: Sequence[dict[str, float]],
    settings: PPOSettings,
    *,
    kl_coef: float,
    critic_only: bool,
    autocast: AbstractContextManager,
) -> dict[str, float]:
    """Update the models once for each minibatch; the means of what was seen, for the log.

    Args:
        passes: epochs of minibatches of micro-batches: rows of the experience, and their collated batch.
        rates: the learning rate of each parameter group, for each update.
        kl_coef: price of the KL inside the loss; 0 when the reward carries it.
        critic_only: leave the policy as it is.
    """
    tally = Tally()
    updates = iter(rates)
    with models.updating():
        for minibatch in (minibatch for epoch in passes for minibatch in epoch):
            # One normaliser for the minibatch, so that how it is cut into micro-batches cannot matter.
            tokens = sum(len(batch.targets) for _, batch in minibatch)
            for rows, batch in minibatch:
                with autocast:
                    loss = _loss(models, experience, rows, batch, settings, kl_coef, critic_only, tally)
                (loss / tokens).backward()
            tally.add(tokens=tokens, updates=1)
            tally.first_ratio = tally.first_ratio if tally.updates > 1 else tally.sums.pop("ratio_error", None)
            tally.sums.pop("ratio_error", None)
            _step(models, optimizer, next(updates), settings.optimizer.max_grad_norm, tally)
    return tally.means()


def _loss(
    models: ActorCritic,
    experience: Experience,
    rows: Sequence[int],
    batch: Batch,
    settings: PPOSettings,
    kl_coef: float,
    critic_only: bool,
    tally: Tally,
) -> Tensor:
    """Sum of the losses of the micro-batch's tokens."""

    def at(table: Tensor) -> Tensor:  # (B, T) -> (N,), the order of the batch's targets
        return table[rows][:, : batch.mask.shape[1]][batch.mask]

    logprobs, entropy, values = models(batch, freeze_trunk=critic_only)
    loss = torch.zeros((), device=batch.ids.device)
    if not critic_only:
        old, advantages = at(experience.logprobs), at(experience.advantages)
        policy = losses.policy_loss(logprobs, old, advantages, settings.clip_range).sum()
        loss = loss + policy
        with torch.no_grad():
            clip = losses.clipped(logprobs, old, advantages, settings.clip_range).sum()
            moved = (logprobs - old).detach()
            tally.add(policy_loss=policy.item(), clip_fraction=clip.item(), step_kl=0.5 * moved.square().sum().item())
            error = moved.exp().sub(1).abs().max().item()
            tally.sums["ratio_error"] = max(tally.sums.get("ratio_error", 0.0), error)
        if kl_coef:
            estimate = ESTIMATORS[settings.kl.estimator](logprobs, at(experience.ref_logprobs)).sum()
            loss = loss + kl_coef * estimate
            tally.add(kl_loss=estimate.item())
        if settings.entropy_coef:
            loss = loss - settings.entropy_coef * entropy.sum()
    if values is not None:
        before, returns = at(experience.values), at(experience.returns)
        value = losses.value_loss(values, before, returns, settings.clip_range_value).sum()
        loss = loss + settings.value_coef * value
        tally.add(value_loss=value.item())
    return loss


def _step(
    models: ActorCritic, optimizer: torch.optim.Optimizer, rates: dict[str, float], max_norm: float, tally: Tally
) -> None:
    """Clip, update, forget the gradients. A separate critic is clipped by itself, a shared one with the trunk."""
    groups = models.groups()
    if models.critic is None:
        norms = {"grad_norm": groups["policy"] + groups["critic"]}
    else:
        norms = {"grad_norm": groups["policy"], "critic_grad_norm": groups["critic"]}
    tally.add(**{name: nn.utils.clip_grad_norm_(params, max_norm).item() for name, params in norms.items()})
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
