"""From last hidden states to the logits that a model itself would give, whatever its architecture does after its trunk.

Many divide or multiply by a number before or after the output embedding (Cohere, Granite, Falcon-H1, MiniCPM), some
cap the logits (Gemma 2 and 3), a few have more layers there. No table of names says which: the model's own forward is
run on states of our choice, in place of its trunk's, and shows it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from morlaif.models.layers import trunk_name, trunk_of

LARGE, FEW, BLOCK = 2**24, 64, 512  # weights of a head that is read by blocks; rows up to which; its rows at once
_CLOSE = 1e-5  # relative; some heads compute in float32
_PROBES = (1e-4, -1e-4, 0.5, -0.5, 3.0, -3.0, 20.0, -20.0, 100.0, -100.0, 1e9, -1e9)  # what a layer might give


@dataclass(frozen=True)
class Head:
    """What turns last hidden states (…, H) into logits (…, V).

    Where `plain`, logits are scale · layer(states), or softcap · tanh(scale · layer(states) / softcap).
    """

    model: PreTrainedModel
    layer: nn.Module  # its output embedding
    plain: bool
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, states: Tensor) -> Tensor:
        """Logits of `states` (N, H) in float32: (N, V)."""
        if not self.plain:
            return _through(self.model, states)[0].float()
        if not torch.is_autocast_enabled(states.device.type):  # Mamba keeps its states in float32
            states = states.to(next(self.layer.parameters()).dtype)
        logits = _product(self.layer, states).float()
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal LM, found by its own forward: no weight is read, so they may be anywhere, or nowhere."""
    layer = model.get_output_embeddings()
    name = next((name for name, child in model.named_children() if child is layer), None)
    found = None if name is None else _formula(model, name, layer)
    return Head(model, layer, False) if found is None else Head(model, layer, True, *found)


def _product(layer: nn.Module, states: Tensor) -> Tensor:
    """`layer(states)`. For few rows on a processor by blocks that stay in its cache: to pack the whole of a large
    matrix, as libraries do first, takes longer than the product.
    """
    if not wins_by_blocks(layer) or len(states) > FEW or torch.is_grad_enabled() or states.dtype != layer.weight.dtype:
        return layer(states)
    assert isinstance(layer, nn.Linear)
    result = states.new_empty(len(states), layer.out_features)
    count = layer.out_features // BLOCK
    whole = count * BLOCK
    blocks = layer.weight[:whole].view(count, BLOCK, layer.in_features)
    products = torch.bmm(states.expand(count, -1, -1), blocks.transpose(1, 2))  # one call, which threads share
    result[:, :whole].unflatten(1, (count, BLOCK)).copy_(products.transpose(0, 1))
    if whole < layer.out_features:
        torch.mm(states, layer.weight[whole:].T, out=result[:, whole:])
    return result if layer.bias is None else result.add_(layer.bias)


def wins_by_blocks(layer: nn.Module) -> bool:
    """Whether this head is a large plain matrix on a processor."""
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.numel() >= LARGE
        and not torch.is_autocast_enabled("cpu")
        and not hasattr(layer.weight, "ds_id")  # under ZeRO-3 a weight is whole in its own layer's forward alone
    )


def last_states(trunk: nn.Module, ids: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states (B, T, H) of ids (B, T) that are padded on the right, if at all: no mask is needed.

    A trunk without such an argument (recurrent, or with ALiBi) counts 0, 1, … by itself.
    """
    given = {"position_ids": positions} if "position_ids" in signature(trunk.forward).parameters else {}
    states: Tensor = trunk(input_ids=ids, use_cache=False, **given)[0]
    return states


@torch.no_grad()
def logits_fault(model: PreTrainedModel) -> str | None:
    """How the logits that are learnt from here differ from those of a model's own forward; None: they do not.

    Two short rows, the shorter one padded on the right, without a mask and with positions counted from 0, against
    each alone. In half precision only the longer one, as it is: routers of experts round the other way under padding.
    """
    count = model.get_input_embeddings().weight.shape[0]
    long, short = ([(7 * i + 3 + j) % count for i in range(6 - 2 * j)] for j in range(2))
    exact = model.dtype in (torch.float32, torch.float64)
    rows = [long, short] if exact else [long]
    ids = torch.tensor([row + long[len(row) :] for row in rows], device=model.device)
    positions = torch.arange(len(long), device=model.device)[None]
    head, states = head_of(model), last_states(trunk_of(model), ids, positions)
    for row, own in zip(rows, states, strict=True):
        wanted = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0].float()
        found = head.logits(own[: len(row)])
        allowed = wanted > torch.finfo(torch.float16).min  # of a masked id there is nothing to compare
        most = (wanted - found)[allowed].abs().max() if found.shape == wanted.shape else torch.tensor(torch.inf)
        if not most <= (1e-3 if exact else 5e-2) * wanted[allowed].abs().max().clamp(min=1):
            return f"by up to {most:.3g}, where they are up to {wanted[allowed].abs().max():.3g}"
    return None


def _formula(model: PreTrainedModel, name: str, layer: nn.Module) -> tuple[float, float | None] | None:
    """Scale and soft cap; None where the logits are no such function of what the layer gives."""
    states = torch.linspace(-1, 1, 2 * len(_PROBES), dtype=torch.float64).view(len(_PROBES), 2)
    raw = torch.tensor(_PROBES, dtype=torch.float64)[:, None].repeat(1, int(getattr(layer, "out_features", 0)))
    stand_in = _Stand(raw[None])
    try:
        with torch.no_grad(), torch.device("cpu"):
            logits = _through(model, states, {name: stand_in})
    except Exception:  # whatever it does in between needs more than that
        return None
    read = stand_in.read
    if read is None or read.shape != (1, *states.shape) or logits.shape != (1, *raw.shape):
        return None
    before = float(read.flatten()[-1])  # of 1.0
    if not torch.allclose(read[0].double(), states * before, rtol=_CLOSE, atol=0):
        return None
    if before != 1 and getattr(layer, "bias", None) is not None:
        return None
    got = logits[0, :, 0].double()
    if not torch.equal(logits[0].double(), got[:, None].expand_as(raw)):  # a vocabulary of which some is masked
        return None
    scale, limit = float(got[0] / raw[0, 0]), float(got[-2])
    softcap = None if math.isclose(limit, scale * _PROBES[-2], rel_tol=_CLOSE) else limit
    wanted = scale * raw[:, 0] if softcap is None else softcap * torch.tanh(scale * raw[:, 0] / softcap)
    if not (scale and softcap != 0 and torch.allclose(got, wanted, rtol=_CLOSE, atol=0)):
        return None
    return _rounded(scale * before), None if softcap is None else _rounded(softcap)


def _rounded(value: float) -> float:
    """Without the noise of the arithmetic that it was found by."""
    return float(f"{value:.7g}")


class _Stand(nn.Module):
    """In a layer's place: keeps what it reads, gives what it was given."""

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self.result, self.weight = result, result
        self.read: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.read = x
        return self.result


class _Trunk(nn.Module):
    """In the trunk's place: gives its states, and nothing else that a trunk may give; attributes are the trunk's."""

    def __init__(self, trunk: nn.Module, states: Tensor) -> None:
        super().__init__()
        self.states, self.instead_of = states, [trunk]  # in a list: it is no part of this one

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return self if name == "decoder" else getattr(self.instead_of[0], name)  # OPT's head calls the decoder

    def forward(self, *args: Any, **kwargs: Any) -> _Output:
        return _Output(last_hidden_state=self.states)


class _Output(BaseModelOutputWithPast):
    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def _through(model: PreTrainedModel, states: Tensor, others: dict[str, nn.Module] | None = None) -> Tensor:
    """The logits (1, N, V) of the model's own forward behind a trunk that gave `states` (N, H).

    The model stays as it is: what runs is a second object on the same layers, but for the trunk and `others`.
    """
    twin, name = copy.copy(model), trunk_name(model)
    trunk = _Trunk(getattr(model, name), states[None])
    twin._modules = {**model._modules, name: trunk, **(others or {})}
    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    return twin(input_ids=ids, use_cache=False, return_dict=True).logits
