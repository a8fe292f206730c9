"""The modules of a transformer: where its layers are, and which of them drop out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from morlaif.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def layer_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name (within the model) and list of the transformer's layers."""
    prefix = model.base_model_prefix
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
