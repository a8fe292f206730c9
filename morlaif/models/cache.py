"""A key-value cache with room for every token to come: a step writes its own column, where transformers copies all."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def reserved_cache(config: PreTrainedConfig, tokens: int) -> DynamicCache:
    """A cache for sequences of at most `tokens`; layers with a window or a state of their own stay transformers'."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class ReservedLayer(DynamicLayer):
    """`keys` and `values` (B, heads, T, head size) are the used part of two larger tensors."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._keys, self._values = (
            states.new_empty(*states.shape[:2], self.tokens, states.shape[3]) for states in (key_states, value_states)
        )
        self._use(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self._use(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, in this order; the room of the others is given back when generation ends."""
        rows, used = len(indices), self.keys.shape[2]
        self._keys[:rows, :, :used] = self.keys[indices]
        self._values[:rows, :, :used] = self.values[indices]
        self._keys, self._values = self._keys[:rows], self._values[:rows]
        self._use(used)

    def _use(self, tokens: int) -> None:
        self.keys, self.values = self._keys[:, :, :tokens], self._values[:, :, :tokens]


def windows_of(config: PreTrainedConfig) -> list[int | None] | None:
    """Over how many tokens each layer looks back; None: all. None for a model that keeps something else than these."""
    layers = DynamicCache(config=config).layers
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    return [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in layers]


def fixed_cache(config: PreTrainedConfig, tokens: int, column: Tensor) -> DynamicCache:
    """A cache whose steps all read and write the same tensors: a step writes the column that `column` (1,) holds.

    All layers keep all `tokens`: it is a mask that limits one to its window.
    """
    cache = DynamicCache(config=config)
    cache.layers = [FixedLayer(tokens, column) for _ in cache.layers]
    return cache


class FixedLayer(DynamicLayer):
    """`keys` and `values` (B, heads, tokens, head size), zero where nothing has been written: masks leave those out."""

    keys: Tensor
    values: Tensor

    def __init__(self, tokens: int, column: Tensor) -> None:
        super().__init__()
        self.tokens, self.column = tokens, column

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.is_initialized:
            self.keys.index_copy_(2, self.column, key_states)
            self.values.index_copy_(2, self.column, value_states)
            return self.keys, self.values
        self.lazy_initialization(key_states, value_states)
        read = key_states.shape[2]
        self.keys = key_states.new_zeros(*key_states.shape[:2], self.tokens, key_states.shape[3])
        self.values = value_states.new_zeros(*value_states.shape[:2], self.tokens, value_states.shape[3])
        self.keys[:, :, :read], self.values[:, :, :read] = key_states, value_states
        return key_states, value_states
