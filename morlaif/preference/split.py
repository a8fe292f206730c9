"""A causal trunk in two parts: layers that are the same for every principle, and adapted ones above them."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from morlaif.models.layers import layer_list, trunk_of


class SplitTrunk:
    """Runs the layers below `first`, or those from it on, by the model's own forward: the others let states pass.

    So positions, masks and the kinds of attention that an architecture mixes stay its own affair. Under ZeRO-3 every
    rank passes the same layers, whatever its data.
    """

    def __init__(self, model: PreTrainedModel, first: int) -> None:
        _, layers = layer_list(model)
        self.trunk = trunk_of(model)
        self.first = first
        self._part: str | None = None  # None: the whole
        self._below: Tensor | None = None
        self._tuples = False
        for index, layer in enumerate(layers):
            layer.forward = MethodType(self._forward_of(index, layer.forward), layer)

    def lower(self, ids: Tensor) -> Tensor:
        """States (B, T, H) that layer `first` reads, for right-padded ids (B, T)."""
        self._run("lower", input_ids=ids)
        states, self._below = self._below, None
        assert states is not None  # the layer `first` has left them
        return states

    def upper(self, states: Tensor) -> Tensor:
        """Last hidden states (K·B, T, H) from those that layer `first` reads."""
        self._below = states
        try:
            # as embeddings they only say how many rows there are and how long: layer `first` gets them as they are
            return self._run("upper", inputs_embeds=states.detach())
        finally:
            self._below = None

    def _run(self, part: str, **given: Tensor) -> Tensor:
        self._part = part
        try:
            return self.trunk(**given, use_cache=False).last_hidden_state
        finally:
            self._part = None

    def _forward_of(self, index: int, forward: Any) -> Any:
        def run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            if self._part == "lower" and index >= self.first:
                if index == self.first:
                    self._below = states
                return (states,) if self._tuples else states
            if self._part == "upper" and index < self.first:
                return (states,) if self._tuples else states
            if self._part == "upper" and index == self.first:
                args, kwargs = (
                    ((self._below, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": self._below})
                )
            result = forward(*args, **kwargs)
            self._tuples = isinstance(result, tuple | list)
            return result

        return run


@torch.no_grad()
def lower_states(split: SplitTrunk, ids: Tensor) -> Tensor:
    """`SplitTrunk.lower` without a graph: the layers below are frozen."""
    return split.lower(ids)
