"""The modules of a transformer: where its layers are, and which of them drop out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn
from transformers.pytorch_utils import Conv1D

from morlaif.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trunk_name(model: PreTrainedModel) -> str:
    """Name of the network below the output head."""
    prefix = model.base_model_prefix
    if prefix not in model._modules:  # Llama 4 names another
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        for name, child in model.named_children():
            if child is not head and any(module is embedding for module in child.modules()):
                return name
        raise UserError(f"{type(model).__name__} has no trunk below a head: expected a causal language model")
    return prefix


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """The network below the output head, adapters in its layers included."""
    trunk: nn.Module = model._modules[trunk_name(model)]
    return trunk


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The layers of the trunk that a low-rank update may be added to, by their names within the model."""
    name, unfit = trunk_name(model), set(unfit_for_lora(model))
    found = {f"{name}.{own}": m for own, m in trunk_of(model).named_modules() if isinstance(m, nn.Linear | Conv1D)}
    return {name: layer for name, layer in found.items() if name not in unfit}


def unfit_for_lora(model: nn.Module) -> list[str]:
    """Names of linear layers whose weight is read past their forward, or that give no single tensor.

    A state-space layer (it has A_log and D) hands its kernels the weights of `out_proj` and `dt_proj`; routers of
    experts that are a linear layer themselves give scores and choices (Llama 4, PhiMoE).
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if type(module).__name__.endswith(("Router", "GroupedLinear")):
                found.append(name)
        elif hasattr(module, "A_log") and hasattr(module, "D"):
            found += [f"{name}.{part}" for part in ("out_proj", "dt_proj") if hasattr(module, part)]
    return found


def layer_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name (within the model) and list of the transformer's layers."""
    prefix = trunk_name(model)
    count = model.config.get_text_config().num_hidden_layers
    for name, module in getattr(model, prefix).named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return f"{prefix}.{name}", module
    raise UserError(f"{type(model).__name__} keeps its {count} layers in no list: use pm=lora")


def top_layers(model: PreTrainedModel, share: float) -> range:
    """The top `share` of the layers, at least one."""
    count = len(layer_list(model)[1])
    return range(count - max(1, math.floor(share * count + 1e-9)), count)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to zero, in `nn.Dropout` and where attention keeps it as a number."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
