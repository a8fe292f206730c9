"""Low-rank adapters (Hu et al., 2106.09685), stacked: K of them on one base, in training and in scoring.

peft holds one adapter active at a time; here the same rows go through a layer under all K in one product. What is
written is peft's format (see `adapters`), so peft alone loads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from morlaif.errors import UserError
from morlaif.models.layers import linear_layers
from morlaif.models.settings import LoRASettings
from morlaif.preference.scoring import tokens_at_once

Layers = Mapping[str, tuple[Tensor, Tensor]]  # layer name: down (r, in), up (out, r) with the scale in it
NARROW = 128  # inputs of a layer up to which its update is added to its weight, for each adapter, on the fly


class StackedLora(nn.Module):
    """A layer under K low-rank updates at once.

    The input (G·B, T, in) holds the same B rows under each of the G adapters `active`; the base layer sees one large
    batch, the updates are two batched products. Nothing is merged, switched or copied.
    """

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor, scale: float = 1.0, dropout: float = 0.0) -> None:
        """down (K, r, in), up (K, out, r); `scale` (alpha / r) is 1 where it is already in `up`."""
        super().__init__()
        self.base_layer = base
        self.lora_down = nn.Parameter(down, requires_grad=False)
        self.lora_up = nn.Parameter(up, requires_grad=False)
        self.scale, self.dropout = scale, dropout
        self.active = slice(None)

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.lora_down[self.active], self.lora_up[self.active]
        grouped = x.reshape(down.shape[0], -1, x.shape[-1])
        if self._narrow():
            # x (W + s·B·A)ᵀ in place of x Wᵀ + s·x Aᵀ Bᵀ: one product in place of three is faster while W is small
            weight = torch.baddbmm(self._base_weight().expand(len(down), -1, -1), up, down, alpha=self.scale)
            return (grouped @ weight.transpose(1, 2)).view(*x.shape[:-1], -1)
        result = self.base_layer(x)
        if self.dropout and self.training:
            # one mask for all adapters: each then drops what it would drop if it were trained alone
            grouped = grouped * F.dropout(torch.ones_like(grouped[0]), self.dropout)
        low = grouped @ down.transpose(1, 2)
        flat = result.view(down.shape[0], -1, result.shape[-1])
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            update = torch.baddbmm(flat, low, up.transpose(1, 2), alpha=self.scale)
        else:  # nobody else holds the base's result: no second one is made of it
            update = flat.baddbmm_(low, up.transpose(1, 2), alpha=self.scale)
        return update.view_as(result)

    def _base_weight(self) -> Tensor:
        weight = self.base_layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def _narrow(self) -> bool:
        base = self.base_layer
        return (
            isinstance(base, nn.Linear)
            and base.in_features <= NARROW
            and base.bias is None
            and not (self.dropout and self.training)
            and not hasattr(base.weight, "ds_id")  # under ZeRO-3 a weight is whole in its own layer's forward alone
        )


class Stack:
    """Adapters sitting in a model's layers."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: dict[str, StackedLora] = {}

    def put(self, name: str, layer: StackedLora) -> None:
        self.layers[name] = layer
        self._place(name, layer)

    def activate(self, active: slice) -> None:
        for layer in self.layers.values():
            layer.active = active

    def remove(self) -> None:
        """Leave the base as it was."""
        for name, layer in self.layers.items():
            self._place(name, layer.base_layer)
        self.layers = {}

    def _place(self, name: str, layer: nn.Module) -> None:
        parent, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(parent) if parent else self.model, leaf, layer)


def size(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; never read off its weight, which ZeRO-3 may hold elsewhere."""
    names = ("nx", "nf") if isinstance(layer, Conv1D) else ("in_features", "out_features")
    inputs, outputs = (int(getattr(layer, name)) for name in names)
    return inputs, outputs


def forward_tokens(model: nn.Module) -> int:
    """How many padded tokens go through `model` at once where it is."""
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear | Conv1D))
    widest = max((size(layer)[1] for layer in layers), default=1)
    return tokens_at_once(next(model.parameters()).device.type != "cpu", widest)


def targets(model: PreTrainedModel, wanted: str | Sequence[str], among: Iterable[str] | None = None) -> list[str]:
    """Names of the layers to adapt: all linear ones of the trunk, or those that `wanted` ends the name of.

    `among`: prefixes (layers of the top) outside of which nothing is adapted.
    """
    names = sorted(linear_layers(model))
    if wanted != "all-linear":
        for target in wanted:
            if not any(name.endswith("." + target) for name in names):
                known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
                raise UserError(f"pm.lora.target_modules: no linear layer '{target}'. Known: {known}.")
        names = [name for name in names if any(name.endswith("." + target) for target in wanted)]
    if among is not None:
        starts = tuple(part + "." for part in among)
        names = [name for name in names if name.startswith(starts)]
    return names


def fresh(
    model: nn.Module, names: Sequence[str], settings: LoRASettings, generators: Sequence[torch.Generator]
) -> Stack:
    """K new adapters on the layers `names`, each drawn from its own generator as peft draws it; float32, trainable."""
    stack = Stack(model)
    device = next(model.parameters()).device
    for name in names:
        base = model.get_submodule(name)
        inputs, outputs = size(base)
        bound = 1 / math.sqrt(inputs)  # Kaiming uniform with a = √5
        down = torch.stack([(torch.rand(settings.r, inputs, generator=g) * 2 - 1) * bound for g in generators])
        up = torch.zeros(len(generators), outputs, settings.r)
        layer = StackedLora(base, down.to(device), up.to(device), settings.alpha / settings.r, settings.dropout)
        for weight in (layer.lora_down, layer.lora_up):
            weight.requires_grad_(True)
        stack.put(name, layer)
    return stack


def stack_adapters(model: nn.Module, ranks: Mapping[str, int], count: int, adapters: Iterable[Layers]) -> Stack:
    """Put `count` trained adapters into the layers they touch: `ranks` has these, with the highest rank in each.

    `adapters` may read one after another, so that no more than one is held twice. Ranks may differ: smaller ones are
    filled with zeros, which change nothing.
    """
    stack = Stack(model)
    like = next(model.parameters())
    for name, rank in sorted(ranks.items()):
        base = model.get_submodule(name)
        inputs, outputs = size(base)
        down = torch.zeros(count, rank, inputs, dtype=like.dtype, device=like.device)
        up = torch.zeros(count, outputs, rank, dtype=like.dtype, device=like.device)
        stack.put(name, StackedLora(base, down, up))
    with torch.no_grad():
        for k, layers in enumerate(adapters):
            for name, (down, up) in layers.items():
                stack.layers[name].lora_down[k, : down.shape[0]] = down.to(like)
                stack.layers[name].lora_up[k, :, : up.shape[1]] = up.to(like)
    return stack
