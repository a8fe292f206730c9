"""On a CPU: two functions of transformers' blocks, equal to its own, in fewer passes over memory.

A narrow model spends more time between its matrix products than in them. `quicken` replaces what it has first seen to
agree with the original, and leaves alone what it does not know; on other devices and types the originals go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

ROTARY = "apply_rotary_pos_emb"  # what transformers' model files call it
TOLERANCE = 1e-5


def quicken(model: nn.Module) -> None:
    """Let the RMS norms and the rotary embedding of `model` take the faster way, in place, where it is on a CPU."""
    if next(model.parameters()).device.type != "cpu":
        return
    seen: dict[type, bool] = {}
    for module in model.modules():
        kind = type(module)
        if kind.__name__.endswith("RMSNorm") and "forward" not in vars(module):
            if kind not in seen:
                seen[kind] = _agrees(module)
            if seen[kind]:
                module.forward = MethodType(_norm, module)
    for name in {type(module).__module__ for module in model.modules()}:
        _quicken_rotary(sys.modules[name])


class RMSNorm(torch.autograd.Function):
    """weight · x / √(mean x² + eps) over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        normal = x * scale
        ctx.save_for_backward(normal, weight, scale)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, weight, scale = ctx.saved_tensors
        grad_weight = (grad * normal).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad = grad * weight
        along = (grad * normal).mean(-1, keepdim=True)
        return torch.addcmul(grad, normal, along, value=-1).mul_(scale), grad_weight, None


class Rotary(torch.autograd.Function):
    """Rotate pairs (i, i + half) of the last axis (Su et al. 2021, arXiv 2104.09864): x (B, heads, T, D).

    Works on (B, T, heads, D), as the projections leave it, with tables (B or 1, T, heads, D): no broadcast inside.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _rotate(grad, *ctx.saved_tensors, -1), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """x · cos + sign · (-x₂, x₁) · sin, where x = (x₁, x₂); for sign -1 that is the transpose."""
    x = x.transpose(1, 2)
    half = x.shape[-1] // 2
    first, second = slice(None, half), slice(half, None)
    own, other = (first, second) if sign > 0 else (second, first)
    out = x * cos
    out[..., first].addcmul_(x[..., second], sin[..., own], value=-sign)
    out[..., second].addcmul_(x[..., first], sin[..., other], value=sign)
    return out.transpose(1, 2)


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    if x.dtype == module.weight.dtype == torch.float32:
        if _is_decoding(x.shape[1]):
            return nn.functional.rms_norm(x, module.weight.shape, module.weight, _eps(module))
        return RMSNorm.apply(x, module.weight, _eps(module))
    return type(module).forward(module, x)


def _is_decoding(tokens: int) -> bool:
    """One token a row and no gradient: then the number of calls is what costs."""
    return tokens == 1 and not torch.is_grad_enabled()


def _eps(module: nn.Module) -> float:
    return module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps


@torch.no_grad()
def _agrees(module: nn.Module) -> bool:
    """Whether `module` is the norm of this file: some scale by 1 + weight, or share a name and nothing else."""
    weight = getattr(module, "weight", None)
    known = hasattr(module, "variance_epsilon") or isinstance(getattr(module, "eps", None), float)
    if weight is None or weight.dim() != 1 or weight.dtype != torch.float32 or not known:
        return False
    x = torch.randn(2, 3, len(weight), generator=torch.Generator().manual_seed(0))
    return torch.allclose(module(x), RMSNorm.apply(x, weight, _eps(module)), rtol=TOLERANCE, atol=TOLERANCE)


def _quicken_rotary(file: ModuleType) -> None:
    """Replace the function of a model file of transformers, for all models of the file."""
    original = getattr(file, ROTARY, None)
    if original is None or hasattr(original, "original") or not file.__name__.startswith("transformers.models."):
        return

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        usual = not args and not kwargs and q.dim() == 4 and cos.dim() == 3 and cos.shape[-1] == q.shape[-1]
        usual = usual and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (q, k, cos, sin))
        if not usual or _is_decoding(q.shape[2]):
            return original(q, k, cos, sin, *args, **kwargs)
        tables = [spread(table, q.shape[1]) for table in (cos, sin)]
        rotated = Rotary.apply(q, *tables)
        if k.shape[1] != q.shape[1]:
            tables = [spread(table, k.shape[1]) for table in (cos, sin)]
        return rotated, Rotary.apply(k, *tables)

    apply.original = original
    if _rotates_alike(original, apply):
        setattr(file, ROTARY, apply)


def spread(table: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (B, T, heads, D)."""
    return table.unsqueeze(2).expand(-1, -1, heads, -1).contiguous()


@torch.no_grad()
def _rotates_alike(original: Callable, ours: Callable) -> bool:
    chance = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 5, 8, generator=chance), torch.randn(2, 2, 5, 8, generator=chance)
    angles = torch.randn(2, 5, 4, generator=chance).repeat(1, 1, 2)
    try:
        expected = original(q, k, angles.cos(), angles.sin())
    except (TypeError, ValueError, RuntimeError):  # another signature
        return False
    found = ours(q, k, angles.cos(), angles.sin())
    return all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(expected, found, strict=True))
