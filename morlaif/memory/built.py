"""How large a model of any architecture is: built on the meta device, where weights have shapes and no numbers.

`python -m morlaif.memory.built` reads a config.json from its standard input and prints what `count` found, so that the
plan itself imports no torch.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TOKENS = 64  # of the sequence that is sent through


def count(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `morlaif.memory.dimensions.Dimensions`.

    Raises:
        Exception: transformers cannot make a causal language model of it.
    """
    import torch

    from morlaif.models.layers import trunk_of
    from morlaif.models.scratch import model_of_shape

    with torch.device("meta"):
        model = model_of_shape(config, torch.bfloat16)
    if model.config._attn_implementation == "sdpa":
        with suppress(Exception):
            model.set_attn_implementation(_fused())
    text = model.config.get_text_config()
    embedded = {
        id(w) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m for w in m.parameters()
    }
    inner = [(name, w) for name, w in model.named_parameters() if id(w) not in embedded]
    layers = int(text.num_hidden_layers)
    linears = list(_linears(model))
    inputs, outputs = (sum(sizes[i] for sizes in linears) for i in (0, 1))
    found = {
        "kind": config["model_type"],
        "vocabulary": int(text.vocab_size),
        "width": int(text.hidden_size),
        "layers": layers,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "largest": max(weight.numel() for weight in model.parameters()),
        "body": sum(_used(name, w, text) for name, w in inner),
        "products": sum(_used(name, w, text) for name, w in inner if w.dim() > 1),
        "queries": int(getattr(text, "num_attention_heads", 0) or 0) * _head(text),
        "adapted": inputs + outputs,
        "inputs": inputs,
        "linears": len(linears),
        "widest": max((sizes[1] for sizes in linears), default=int(text.hidden_size)),
    }
    found |= _cache(model, text) | _kept(trunk_of(model), layers, inputs, outputs)
    return found


def _linears(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Inputs and outputs of each linear layer that LoRA's all-linear adapts: not the output head."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from morlaif.preference.lora import size

    head = model.get_output_embeddings()  # type: ignore[operator]
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield size(module)


def _used(name: str, weight: Tensor, config: Any) -> int:
    """Parameters that one token passes through: of experts, those that it is sent to."""
    experts = next(
        (n for key in ("num_experts", "num_local_experts", "n_routed_experts") if (n := getattr(config, key, 0))), 0
    )
    chosen = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_top_k", None)
    if experts and chosen and "experts" in name and "shared" not in name:
        return weight.numel() * min(chosen, experts) // experts
    return weight.numel()


def _head(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // (getattr(config, "num_attention_heads", 0) or 1)
    )


def _fused() -> str:
    """Attention that keeps what a fused kernel keeps; on the meta device torch would take the one that keeps all."""
    import torch
    from transformers import AttentionInterface

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            rows, heads, tokens, _ = query.shape
            out = query.new_empty(rows, tokens, heads, value.shape[-1])
            ctx.save_for_backward(query, key, value, out)
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> None:
            raise NotImplementedError

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return Attention.apply(query, key, value), None

    AttentionInterface.register("morlaif_counted", attend)
    return "morlaif_counted"


def _cache(model: nn.Module, config: Any) -> dict[str, Any]:
    """What is kept of a sequence while it is sampled: by token, within windows, and once and for all."""
    import torch

    whole, windows, state = 0, dict[int, int](), 0
    try:
        with torch.no_grad(), torch.device("meta"):
            out = model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long), use_cache=True)
        cache = getattr(out, "past_key_values", None)
        if cache is None:
            cache = getattr(out, "cache_params", None)
        parts = getattr(cache, "layers", None)
        for layer in [cache] if parts is None else parts:
            held = list(_tensors(vars(layer)))
            pair = [t for t in (getattr(layer, name, None) for name in ("keys", "values")) if torch.is_tensor(t)]
            numbers = sum(t.numel() // t.shape[-2] for t in pair if t.dim() == 4)
            state += sum(t.numel() for t in held) - sum(t.numel() for t in pair)
            window = getattr(layer, "sliding_window", None) if getattr(layer, "is_sliding", False) else None
            if window:
                windows[window] = windows.get(window, 0) + numbers
            else:
                whole += numbers
    except Exception:  # some look at numbers, of which there are none here
        heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 0) or 0
        whole, windows, state = 2 * int(config.num_hidden_layers) * heads * _head(config), {}, 0
    return {"whole": whole, "windows": tuple(sorted(windows.items())), "state": state}


def _tensors(value: Any) -> Iterator[Tensor]:
    import torch

    if torch.is_tensor(value) and value.is_floating_point():
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)


@dataclass
class _Saved:
    """Tensors that a forward keeps for its backward, each storage once."""

    weights: set[int]
    found: dict[int, Tensor] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self.weights and tensor.is_floating_point():
            self.found.setdefault(key, tensor)  # held, so that no other takes its place
        return tensor

    def numbers(self, dtype: torch.dtype | None = None) -> int:
        storages = [t for t in self.found.values() if dtype is None or t.dtype == dtype]
        return sum(t.untyped_storage().nbytes() // t.element_size() for t in storages)


def _kept(trunk: nn.Module, layers: int, inputs: int, outputs: int) -> dict[str, float]:
    """Numbers that autograd keeps of one token in one layer: where all learns, and where adapters alone do; those of
    them that are float32 whatever the model computes in."""
    import torch

    per = TOKENS * layers
    try:
        full = _saved(trunk, learn=True)
        frozen = _saved(trunk, learn=False)
        plain, single = frozen.numbers(), frozen.numbers(torch.float32)
        for module in (m for m in trunk.modules() if hasattr(m, "morlaif_read")):
            frozen.add(module.morlaif_read)  # type: ignore[arg-type]
            del module.morlaif_read
        return {
            "kept": full.numbers() / per, "kept_single": full.numbers(torch.float32) / per,
            "frozen": plain / per, "frozen_single": single / per, "read": (frozen.numbers() - plain) / per,
        }  # fmt: skip
    except Exception:
        each = (inputs + outputs) / layers
        return {
            "kept": each,
            "kept_single": 0.0,
            "frozen": each - inputs / layers,
            "frozen_single": 0.0,
            "read": inputs / layers,
        }


def _saved(trunk: nn.Module, learn: bool) -> _Saved:
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    trunk.requires_grad_(learn)
    saved = _Saved({w.untyped_storage()._cdata for w in (*trunk.parameters(), *trunk.buffers())})
    hooks = []
    if not learn:

        def remember(module: nn.Module, args: tuple[Any, ...]) -> None:
            module.morlaif_read = args[0]

        hooks = [m.register_forward_pre_hook(remember) for m in trunk.modules() if isinstance(m, nn.Linear | Conv1D)]
    with torch.device("meta"):
        embedded = trunk.get_input_embeddings()(torch.zeros(1, TOKENS, dtype=torch.long))  # type: ignore[operator]
        embedded = embedded.detach().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
            trunk(inputs_embeds=embedded, use_cache=True)
    for hook in hooks:
        hook.remove()
    return saved


def described(config: str) -> dict[str, Any]:
    """`count` of a config.json's text; {"error": a line} where it fails, for whatever reason transformers has."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return count(json.loads(config))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    finally:
        logging.set_verbosity(before)


if __name__ == "__main__":
    print(json.dumps(described(sys.stdin.read())))
