"""Step 5 of PPO: several passes over one experience."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from morlaif.rl.diagnostics import policy_sums, value_sums
from morlaif.rl.engine import Engine
from morlaif.rl.experience import Experience, Minibatch
from morlaif.rl.kl import ESTIMATORS
from morlaif.rl.losses import Actions, aggregated, beyond_clip, sequences, value_loss
from morlaif.rl.registry import PolicyLoss
from morlaif.rl.settings import PPOSettings
from morlaif.rl.tally import Tally, Update, UpdateTally


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
) -> UpdateTally:
    """Update the models once for each minibatch; what was seen before each update, for the log.

    With `ppo.target_kl`, what is left of the minibatches after the first update that began further than that from the
    policy that sampled (k3, nats a token, the mean over its minibatch): as in CleanRL, whose check is once an epoch.

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
        for epoch, minibatch in ((epoch, minibatch) for epoch, some in enumerate(passes) for minibatch in some):
            update = tally.begin(epoch, minibatch.tokens, minibatch.states)
            engine.set_rates(next(updates) | ({"policy": 0.0} if critic_only else {}))
            for i in range(len(minibatch.micro)):
                with autocast:
                    loss = _loss(engine, experience, minibatch, i, settings, policy_loss, kl_coef, critic_only, update)
                # One normaliser for the minibatch, so that how it is cut into micro-batches and shared between ranks
                # cannot matter.
                engine.backward(loss / minibatch.tokens, last=i == len(minibatch.micro) - 1)
            update.norms = engine.step(critic_only)
            if settings.target_kl is not None and update.mean("approx_kl_k3") > settings.target_kl:
                break
    found = UpdateTally.of(tally.seen())
    if settings.target_kl is not None:
        found.step["updates_left_out"] = float(sum(map(len, passes)) - len(tally.updates))
    return found


def _loss(
    engine: Engine,
    experience: Experience,
    minibatch: Minibatch,
    micro: int,
    settings: PPOSettings,
    policy_loss: PolicyLoss,
    kl_coef: float,
    critic_only: bool,
    update: Update,
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
        before = at(experience.entropy)
        response = torch.arange(len(rows), device=old.device)[:, None].expand(batch.mask.shape)[batch.mask]
        if minibatch.states > minibatch.tokens:  # the state after EOS has a value and no token
            is_token = at(experience.mask)
            logprobs, old, advantages, ref, before = (x[is_token] for x in (logprobs, old, advantages, ref, before))
            response = response[is_token]
            entropy = None if entropy is None else entropy[is_token]
        actions = Actions(
            logprobs, old, ref, advantages, response,
            settings.clip_range, settings.clip_range_high, settings.dual_clip,
        )  # fmt: skip
        losses = policy_loss(actions)
        counts = aggregated(
            experience.mask[rows].sum(1).to(losses)[response], settings.loss_aggregation,
            minibatch.tokens, minibatch.responses, settings.max_new_tokens,
        )  # fmt: skip
        if experience.weights is not None:
            weights = at(experience.weights)
            losses = losses * (weights[is_token] if minibatch.states > minibatch.tokens else weights)
        policy = (losses * counts).sum()
        loss = loss + policy
        with torch.no_grad():
            clipped = sequences(actions) if settings.loss == "clip_sequence" else actions
            update.add(policy_loss=policy, clip_fraction=beyond_clip(clipped).sum())
            update.add(**policy_sums(logprobs, old, before))
            update.ratios.append(torch.stack(actions.ratio.aminmax()))
        if kl_coef:
            estimate = (ESTIMATORS[settings.kl.estimator](logprobs, ref) * counts).sum()
            loss = loss + kl_coef * estimate
            update.add(kl_loss=estimate)
        if settings.entropy_coef and entropy is not None:
            loss = loss - settings.entropy_coef * entropy.sum()
    if values is not None:
        old_values, returns = at(experience.values), at(experience.returns)
        value = value_loss(values, old_values, returns, settings.clip_range_value).sum()
        value = value * (minibatch.tokens / minibatch.states)  # a mean of its own
        loss = loss + settings.value_coef * value
        update.add(value_loss=value, **value_sums(values, old_values, returns, settings.clip_range_value))
    return loss
