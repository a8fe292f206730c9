"""Log-probabilities of tokens among very many: the vocabulary is read block by block, and no table of it is made.

A block of logits is small enough to stay in a processor's cache while it is reduced; the sums over what was read so far
are scaled anew where a larger logit comes (Milakov and Gimelshein, 1805.02867). With y a token's logits over the
temperature, p their softmax and t the token,

    d log p_t / d h = Σ_v (1[v = t] - p_v) · dy_v/dz_v · W_v

does not depend on the loss but for a factor, so it is summed up in the same pass; the backward pass multiplies it by a
number a token. Only a head that learns needs its logits once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = {"cpu": 2**20, "cuda": 2**27}  # logits at once
ROWS = {"cpu": 512, "cuda": 2**14}  # of them, most tokens


class BlockLogprobs(torch.autograd.Function):
    """log softmax(f(h Wᵀ + b) / temperature) at `targets` (N,), and on demand the entropy (N,), without gradient.

    h (N, H), W (V, H), b (V,) or None; f is softcap · tanh(· / softcap), or nothing. Products are in the dtype of h.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        softcap: float | None,
        grad: bool,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        head = _Head(weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype), temperature, softcap)
        with torch.autocast(hidden.device.type, enabled=False):
            found = [
                _read(head, hidden[part], targets[part], grad and ctx.needs_input_grad[0], entropy)
                for part in _parts(hidden)
            ]
        logprobs, normalisers = torch.cat([x.logprobs for x in found]), torch.cat([x.normalisers for x in found])
        uncertain = torch.cat([x.entropy for x in found if x.entropy is not None]) if entropy else None
        pieces = [x.slopes for x in found if x.slopes is not None]
        slopes = torch.cat(pieces) if pieces else None
        kept = (hidden, weight, bias, targets, normalisers) if grad and any(ctx.needs_input_grad[1:3]) else ()
        ctx.save_for_backward(slopes, *kept)
        ctx.head = (temperature, softcap)
        if uncertain is not None:
            ctx.mark_non_differentiable(uncertain)
        return logprobs, uncertain

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        slopes, *kept = ctx.saved_tensors
        grad_hidden = None if slopes is None else (slopes * grad[:, None]).to(slopes.dtype)
        grad_weight = grad_bias = None
        if kept:
            hidden, weight, bias, targets, normalisers = kept
            own = _Head(weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype), *ctx.head)
            grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
            grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
            for part in _parts(hidden):
                for block, signal in _signals(own, hidden[part], targets[part], normalisers[part], grad[part]):
                    if grad_weight is not None:
                        grad_weight[block] += (signal.T @ hidden[part]).to(weight.dtype)
                    if grad_bias is not None:
                        grad_bias[block] += signal.sum(0)
        return grad_hidden, grad_weight, grad_bias, *[None] * 5


@dataclass(frozen=True)
class _Head:
    weight: Tensor  # (V, H)
    bias: Tensor | None  # (V,)
    temperature: float
    softcap: float | None

    def blocks(self, rows: int) -> Iterator[slice]:
        width = max(1, BLOCK["cpu" if self.weight.device.type == "cpu" else "cuda"] // rows)
        return (slice(start, min(start + width, len(self.weight))) for start in range(0, len(self.weight), width))

    def logits(self, hidden: Tensor, block: slice, slope: bool) -> tuple[Tensor, Tensor | None]:
        """(n, block) float32, over the temperature; their slope by what the head gives, where it varies."""
        raw = hidden @ self.weight[block].T
        if self.bias is not None:
            raw += self.bias[block]
        logits = raw.float()
        steep = None
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_()
            steep = 1 - logits.square() if slope else None
            logits.mul_(self.softcap)
        return (logits if self.temperature == 1 else logits.div_(self.temperature)), steep


def _parts(hidden: Tensor) -> list[slice]:
    rows = ROWS["cpu" if hidden.device.type == "cpu" else "cuda"]
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)]


class _Found(NamedTuple):
    logprobs: Tensor  # (n,)
    normalisers: Tensor  # (n, 1) log Σ e^y
    entropy: Tensor | None  # (n,)
    slopes: Tensor | None  # (n, H) d logp / d hidden


def _read(head: _Head, hidden: Tensor, targets: Tensor, grad: bool, entropy: bool) -> _Found:
    """What there is to know of n tokens, in one pass over the vocabulary."""
    n = len(hidden)
    largest = torch.full((n, 1), -torch.inf, device=hidden.device)
    total, spread = torch.zeros_like(largest), torch.zeros_like(largest)  # Σ e^d and Σ e^d d, d = logit - largest
    wanted = torch.zeros_like(largest)
    steepness = torch.ones_like(largest)  # at the target
    pulled = torch.zeros(hidden.shape, device=hidden.device) if grad else None  # Σ e^d dy/dz W, without the target
    for block in head.blocks(n):
        logits, steep = head.logits(hidden, block, grad)
        place, here = _places(targets, block)
        wanted = torch.where(here, logits.gather(1, place), wanted)
        before, largest = largest, torch.maximum(largest, logits.amax(1, keepdim=True))
        shrink = (before - largest).exp_()
        weights = logits.sub_(largest)
        if entropy:
            moved = torch.where(total > 0, before - largest, 0)  # there is no spread before the first block
            spread = shrink * (spread + total * moved)
            powers = weights.exp()
            spread += weights.mul_(powers).sum(1, keepdim=True)
            weights = powers
        else:
            weights.exp_()
        total = total * shrink + weights.sum(1, keepdim=True)
        if pulled is not None:
            weights.scatter_(1, place, weights.gather(1, place).masked_fill_(here, 0))
            if steep is not None:
                steepness = torch.where(here, steep.gather(1, place), steepness)
                weights.mul_(steep)
            pulled.mul_(shrink).add_(weights.to(hidden.dtype) @ head.weight[block])
    log_total = total.log()
    logprobs = wanted - largest - log_total
    uncertain = (log_total - spread / total)[:, 0] if entropy else None
    slopes = None
    if pulled is not None:
        others = -logprobs.expm1()  # 1 - p
        pulled.div_(-total)
        pulled += others * steepness * head.weight[targets]
        slopes = pulled.div_(head.temperature).to(hidden.dtype)
    return _Found(logprobs[:, 0], largest + log_total, uncertain, slopes)


def _signals(
    head: _Head, hidden: Tensor, targets: Tensor, normalisers: Tensor, grad: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """d loss / d raw logits (n, block) of every block, in the dtype of `hidden`."""
    with torch.autocast(hidden.device.type, enabled=False):
        g = grad[:, None] / head.temperature
        for block in head.blocks(len(hidden)):
            logits, steep = head.logits(hidden, block, True)
            place, here = _places(targets, block)
            signal = logits.sub_(normalisers).exp_().mul_(-g)
            signal.scatter_add_(1, place, g.masked_fill(~here, 0))
            if steep is not None:
                signal.mul_(steep)
            yield block, signal.to(hidden.dtype)


def _places(targets: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Where in the block each target is (n, 1), and whether it is there at all."""
    local = targets[:, None] - block.start
    width = block.stop - block.start
    return local.clamp(0, width - 1), (local >= 0) & (local < width)
