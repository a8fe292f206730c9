"""The last layer of a causal trunk, at the places whose states are read and nowhere else.

PPO reads the states of response tokens, a preference model those that it pools; of all other places the last layer owes
keys and values alone. On a CPU, in blocks built like Llama's (seen to agree with their own forward), queries, output
and MLP leave the others out; elsewhere the MLP does. What is returned is the same in either case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from morlaif import sharded
from morlaif.models.kernels import TOLERANCE, Rotary, spread

PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Places:
    """N places in a batch (B, T)."""

    flat: Tensor  # (N,) in the flattened batch, ascending
    rows: int
    width: int

    @classmethod
    def of(cls, chosen: Tensor) -> Places:
        """The places where `chosen` (B, T) is true."""
        return cls(chosen.flatten().nonzero().squeeze(1), *chosen.shape)

    def take(self, states: Tensor) -> Tensor:
        """(K·B, T, H), K copies of the batch, -> (K·N, H)."""
        copies = states.reshape(-1, self.rows * self.width, states.shape[-1])
        return copies.index_select(1, self.flat).flatten(0, 1)

    def put(self, found: Tensor, like: Tensor) -> Tensor:
        """(K·N, H) -> (K·B, T, H) as `like`, zero elsewhere."""
        copies = torch.zeros_like(like.view(-1, self.rows * self.width, like.shape[-1]), dtype=found.dtype)
        return copies.index_copy(1, self.flat, found.view(len(copies), -1, found.shape[-1])).view(like.shape)

    @cached_property
    def row(self) -> Tensor:
        """(N,) the row of each."""
        return self.flat // self.width

    @cached_property
    def _slot(self) -> Tensor:
        """(N,) which of its row each is."""
        counts = torch.bincount(self.row, minlength=self.rows)
        return torch.arange(len(self.flat), device=self.flat.device) - (counts.cumsum(0) - counts)[self.row]

    @cached_property
    def columns(self) -> Tensor:
        """(B, Q) columns of a row's places, Q those of the row with most; filled up with zeros."""
        columns = self.flat.new_zeros(self.rows, int(self._slot.max()) + 1)
        columns[self.row, self._slot] = self.flat % self.width
        return columns

    @cached_property
    def slots(self) -> Places:
        """Where they stand in `columns`."""
        rows, width = self.columns.shape
        return Places(self.row * width + self._slot, rows, width)

    @cached_property
    def seen(self) -> Tensor:
        """(B, 1, Q, T) bool: what each of `columns` may attend to."""
        return (torch.arange(self.width, device=self.flat.device) <= self.columns[..., None]).unsqueeze(1)


def states_at(model: nn.Module, places: Places, run: Callable[[], Tensor]) -> Tensor:
    """(K·N, H): of the last hidden states (K·B, T, H) that `run` gets from `model`'s trunk those at `places`.

    `run` gives no attention mask. K copies of the batch stand one below another.
    """
    layer = last_layer(model)
    if layer is None or len(places.flat) == 0:
        return places.take(run())
    prepare(model)
    checkpointed = getattr(layer, "gradient_checkpointing", False) and layer.training  # would run again, out of here
    layer.reading = None if checkpointed else places
    try:
        states = run()
    finally:
        layer.reading = None
    packed, layer.packed = layer.packed, False
    return states.squeeze(0) if packed else places.take(states)


def last_layer(model: nn.Module) -> nn.Module | None:
    """Of a model or its trunk; None where the layers stand in no list."""
    trunk = getattr(model, model.base_model_prefix, model)
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in trunk.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    layers = next(lists, None)
    return None if layers is None else layers[-1]


def prepare(model: nn.Module) -> None:
    """Let the last layer of `model` look for places. Before anything else is put into it; again changes nothing."""
    layer = last_layer(model)
    if layer is None or hasattr(layer, "reading"):
        return
    layer.reading, layer.packed = None, False
    mlp = getattr(layer, "mlp", None)
    if "forward" not in vars(layer) and _agrees(getattr(model, model.base_model_prefix, model), layer):
        layer.forward = MethodType(_forward, layer)
    elif isinstance(mlp, nn.Module) and "forward" not in vars(mlp):
        mlp.forward = MethodType(_mlp, mlp)
        object.__setattr__(mlp, "layer", layer)  # no submodule of its own


def _forward(layer: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    places, tables = layer.reading, kwargs.get("position_embeddings")
    plain = hidden_states.dtype == torch.float32 and not torch.is_autocast_enabled(hidden_states.device.type)
    plain = plain and tables is not None and len(tables[0]) == 1 and kwargs.get("attention_mask") is None
    if places is None or not plain or args:
        return type(layer).forward(layer, hidden_states, *args, **kwargs)
    layer.packed = True
    return _block(layer, hidden_states, places, tables).unsqueeze(0)


def _block(layer: nn.Module, states: Tensor, places: Places, tables: tuple[Tensor, Tensor]) -> Tensor:
    """A block of Llama: states (K·B, T, H) -> (K·N, H)."""
    attention = layer.self_attn
    copies = len(states) // places.rows
    normal = layer.input_layernorm(states)

    def heads(x: Tensor) -> Tensor:  # (…, T, heads · D) -> (…, heads, T, D)
        return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    columns = places.columns.repeat(copies, 1)
    asking = normal.gather(1, columns.unsqueeze(-1).expand(-1, -1, normal.shape[-1]))
    query, key, value = (
        heads(project(x))
        for project, x in ((attention.q_proj, asking), (attention.k_proj, normal), (attention.v_proj, normal))
    )
    whole = [table.expand(places.rows, -1, -1) for table in tables]  # (B, T, D)
    own = [t.gather(1, places.columns.unsqueeze(-1).expand(-1, -1, t.shape[-1])) for t in whole]
    query = Rotary.apply(query, *(spread(t, query.shape[1]).repeat(copies, 1, 1, 1) for t in own))
    key = Rotary.apply(key, *(spread(t[:1], key.shape[1]) for t in tables))
    found = nn.functional.scaled_dot_product_attention(
        query, key, value, places.seen.repeat(copies, 1, 1, 1), scale=attention.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    found = places.slots.take(found.transpose(1, 2).flatten(2))
    states = places.take(states) + attention.o_proj(found)
    return states + layer.mlp(layer.post_attention_layernorm(states))


def _mlp(mlp: nn.Module, states: Tensor, *args: Any, **kwargs: Any) -> Any:
    places = mlp.layer.reading
    if places is None or args or kwargs:
        return type(mlp).forward(mlp, states, *args, **kwargs)
    found = type(mlp).forward(mlp, places.take(states).unsqueeze(0))
    if not isinstance(found, Tensor):  # such as a mixture of experts with its router's logits
        return type(mlp).forward(mlp, states)
    return places.put(found.squeeze(0), states)


@torch.no_grad()
def _agrees(trunk: nn.Module, layer: nn.Module) -> bool:
    """Whether `layer` is on a CPU and computes what `_block` does."""
    parts = [getattr(layer, name, None) for name in PARTS]
    attention = getattr(layer, "self_attn", None)
    known = all(parts) and all(hasattr(attention, name) for name in (*PROJECTIONS, "head_dim", "scaling"))
    known = known and hasattr(trunk, "rotary_emb") and getattr(attention, "sliding_window", None) is None
    weights = list(layer.parameters())
    if not known or any(w.device.type != "cpu" or w.dtype != torch.float32 or sharded.is_sharded(w) for w in weights):
        return False
    if trunk.config._attn_implementation != "sdpa":
        return False
    chance = torch.Generator().manual_seed(0)
    states = torch.randn(2, 6, trunk.config.get_text_config().hidden_size, generator=chance)
    places = Places.of(torch.tensor([[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 1]], dtype=torch.bool))
    positions = torch.arange(6)[None]
    try:
        tables = trunk.rotary_emb(states, positions)
        own = layer(states, position_embeddings=tables, position_ids=positions, attention_mask=None)
        found = _block(layer, states, places, tables)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # another signature
        return False
    own = places.take(own[0] if isinstance(own, tuple) else own)
    return torch.allclose(own, found, rtol=TOLERANCE, atol=TOLERANCE * float(own.abs().max()))
