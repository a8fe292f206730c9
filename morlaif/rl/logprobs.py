"""Log-probabilities of given tokens straight from hidden states, without a full-vocabulary copy of everything.

Logits are made for response positions alone. A small batch keeps them for the backward pass; where they would be more
than `CHUNK`, no more than a block of them exists at once (`morlaif.rl.blocks`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from morlaif.models.head import Head
from morlaif.rl.blocks import BlockLogprobs

Entropy: TypeAlias = Literal["none", "value", "gradient"]
CHUNK = {"cpu": 2**24, "cuda": 2**27}  # logits that are kept: 64 MB in float32, or on a GPU, which wants more work, 512


def logprobs_of(
    head: Head, hidden: Tensor, targets: Tensor, temperature: float, entropy: Entropy = "none"
) -> tuple[Tensor, Tensor | None]:
    """`token_logprobs` under a model's own head, whatever it does to its logits."""
    if not head.plain:
        return _from_logits(head.logits(hidden), targets, temperature, entropy)
    softcap = None if head.softcap is None else head.softcap / head.scale  # a scale is a temperature
    return token_logprobs(hidden, head.layer, targets, temperature / head.scale, softcap, entropy)


def token_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    temperature: float,
    softcap: float | None = None,
    entropy: Entropy = "none",
) -> tuple[Tensor, Tensor | None]:
    """log softmax(head(hidden) / temperature) at `targets`, and the entropy of that distribution.

    Args:
        hidden: (N, H), the last hidden state before each token.
        head: the model's output embedding.
        targets: (N,) ids.
        softcap: logits go through softcap · tanh(logits / softcap) first, where the model has it (Gemma 2).
        entropy: whether it is wanted, and whether with gradient; one costs a pass over the vocabulary.

    Returns:
        Log-probabilities (N,) and entropies (N,) or None, float32.
    """
    sharded = hasattr(next(head.parameters()), "ds_id")  # ZeRO-3: the weights are there inside of `head` alone
    many = hidden.shape[0] * getattr(head, "out_features", 0) > CHUNK["cpu" if hidden.device.type == "cpu" else "cuda"]
    if type(head) is nn.Linear and not sharded and (softcap is None or many) and entropy != "gradient":
        if torch.is_autocast_enabled(hidden.device.type):  # norms leave float32; a plain head would be given this
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        flags = torch.is_grad_enabled(), entropy == "value"
        if many:
            return BlockLogprobs.apply(hidden, head.weight, head.bias, targets, temperature, softcap, *flags)
        return _TokenLogprobs.apply(hidden, head.weight, head.bias, targets, temperature, *flags)
    logits = head(hidden).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return _from_logits(logits, targets, temperature, entropy)


def _from_logits(logits: Tensor, targets: Tensor, temperature: float, entropy: Entropy) -> tuple[Tensor, Tensor | None]:
    table = (logits / temperature).log_softmax(-1)
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        uncertain = None if entropy == "none" else -(table.exp() * table).sum(-1)
    return table.gather(1, targets[:, None])[:, 0], uncertain


class _TokenLogprobs(torch.autograd.Function):
    """d logp / d logits = (one-hot - softmax) / temperature."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        grad: bool,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        table = _log_softmax(hidden, weight.to(hidden.dtype), bias, temperature)
        uncertain = -table.exp().mul_(table).sum(-1) if entropy else None
        logprobs = table.gather(1, targets[:, None])[:, 0]
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.table = table if grad else None
        ctx.temperature = temperature
        if uncertain is not None:
            ctx.mark_non_differentiable(uncertain)
        return logprobs, uncertain

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        table, ctx.table = ctx.table, None
        if table is None:  # a second time, by retain_graph
            table = _log_softmax(hidden, weight.to(hidden.dtype), bias, ctx.temperature)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        g = grad[:, None] / ctx.temperature
        logits = table.exp_().mul_(-g)
        logits = logits.scatter_add_(1, targets[:, None], g).to(hidden.dtype)
        return (
            logits @ weight.to(hidden.dtype) if need_hidden else None,
            (logits.T @ hidden).to(weight.dtype) if need_weight else None,
            logits.sum(0) if need_bias else None,
            *[None] * 4,
        )


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """(n, H) -> (n, V) float32; the product in the dtype of `hidden`, whether autocast is on (forward) or off."""
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if bias is None else bias.to(hidden.dtype)
        logits = nn.functional.linear(hidden, weight, bias).float()
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)
