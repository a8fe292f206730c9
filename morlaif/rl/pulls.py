"""Where each principle would pull the policy: gradients of one reward a principle, and the angles between them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from morlaif import ranks
from morlaif.rl.diagnostics import cosines_of
from morlaif.rl.engine import Engine
from morlaif.rl.experience import Minibatch


def gradient_cosines(
    engine: Engine, minibatch: Minibatch, gains: Tensor, autocast: AbstractContextManager[object]
) -> Tensor:
    """(K, K) cosines of what `gradient_products` has."""
    return cosines_of(gradient_products(engine, minibatch, gains, autocast))


def gradient_products(
    engine: Engine, minibatch: Minibatch, gains: Tensor, autocast: AbstractContextManager[object]
) -> Tensor:
    """(K, K) inner products of gradients of the policy at `minibatch`, float64, the same on all ranks.

    That of column k is of -Σ gain · log p over the tokens, with the gains (B, K) of the responses: the policy gradient,
    where every ratio is 1. One forward and K backward passes; K gradients are in memory at once. Nothing else changes.
    """
    parameters = engine.models.groups()["policy"]
    size = sum(p.numel() for p in parameters)
    found = torch.zeros(gains.shape[1], size, device=gains.device)
    with engine.models.updating():
        for rows, batch in minibatch.micro:
            if not rows:
                continue
            with autocast:
                logprobs = engine(batch)[0]
            assert logprobs is not None  # the trunk is not frozen
            token = torch.arange(len(rows), device=gains.device)[:, None].expand(batch.mask.shape)[batch.mask]
            of_token = gains[rows].to(logprobs.dtype)[token]  # (N, K)
            for k, column in enumerate(of_token.unbind(1)):
                last = k + 1 == of_token.shape[1]
                parts = torch.autograd.grad(-(column * logprobs).sum(), parameters, retain_graph=not last)
                found[k] += torch.cat([part.flatten().float() for part in parts])
    found = ranks.total(found).double()
    return found @ found.T
