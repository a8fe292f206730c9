"""One step of sampling: the logits of the next token of each row, by a cache where the architecture's can be trusted.

A cache must stand rows that are padded on the left, and rows that leave. Attention's does; that of recurrent layers
does in part, and some models have none. So each model is asked once, on two short rows, whether its cached steps are
those of its plain forward; where they are not, each step reads the rows anew. On a GPU a step is recorded, where what
it keeps can stay where it is.
"""

from __future__ import annotations

import logging
import sys
from inspect import signature
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from morlaif.models import graphs
from morlaif.models.cache import FixedLayer, ReservedLayer, fixed_cache, reserved_cache, windows_of
from morlaif.models.head import Head, head_of, last_states, wins_by_blocks
from morlaif.models.layers import trunk_of

SHORT = 6  # tokens of the rows that a model is asked on
log = logging.getLogger(__name__)
_asked: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
_fixed: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


class Decoder(Protocol):
    """Rows that grow by a token a step."""

    shrinks: bool  # whether `keep` may be called

    def step(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits (B, V) after `ids`: first the prompts (B, T), padded on the left, then (B, 1) what was picked.

        mask: (B, all so far), 1 where there is a token; positions: those of `ids`.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, in this order."""
        ...


def decoder(model: PreTrainedModel, room: int, fixed: bool | None = None) -> Decoder:
    """What samples from `model` rows of at most `room` tokens.

    fixed: by tensors that stay where they are, where the model allows it; None: where a GPU can record such steps.
    """
    if isinstance(model, PreTrainedModel) and not cache_holds(model):
        return Rereading(model)
    wanted = graphs.enabled and graphs.on(model.device) if fixed is None else fixed
    return Fixed(model, room) if wanted and Fixed.possible(model) else Cached(model, room)


class Cached:
    """Keys, values and states of what was read are kept."""

    shrinks = True

    def __init__(self, model: PreTrainedModel, room: int) -> None:
        self.model = model
        self.cache = self._cache(room)
        self.ready = _takes_ready_masks(model, self.cache)
        self.name = "past_key_values" if _takes(model, "past_key_values") else "cache_params"  # Mamba's word for it
        self.head = _large_head(model) if self.name == "past_key_values" else None

    def _cache(self, room: int) -> DynamicCache:
        return reserved_cache(self.model.config, room)

    def step(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        first = ids.shape[1] == mask.shape[1]
        given: dict[str, Any] = {
            "attention_mask": self._ready(mask) if self.ready and not first else mask,
            "position_ids": positions, self.name: self.cache, "logits_to_keep": 1,
        }  # fmt: skip
        if not first and self.name == "cache_params":  # states are past all padding
            del given["attention_mask"]
        if self.head is not None:
            del given["logits_to_keep"]
            states = trunk_of(self.model)(input_ids=ids, use_cache=True, **given)[0]
            return self.head.logits(states[:, -1])
        logits: Tensor = self.model(input_ids=ids, use_cache=True, **known(self.model, given)).logits[:, -1]
        return logits

    def _ready(self, mask: Tensor) -> Any:
        """What of `mask` (B, T) a layer's attention uses for a token."""
        return mask[:, None, None].bool()

    def keep(self, rows: Tensor) -> None:
        keep_rows(self.cache, rows)


class Fixed(Cached):
    """As `Cached`, by tensors that stay where they are. On a GPU the second token's step is recorded, and run again.

    No row leaves: a step takes the time of reading the weights, whatever the rows.
    """

    shrinks = False

    def __init__(self, model: PreTrainedModel, room: int) -> None:
        self.room = -(-room // 8) * 8  # whole 16 bytes of a mask, which kernels of attention ask for
        self.column = torch.zeros(1, dtype=torch.long, device=model.device)
        self.places = torch.arange(self.room, device=model.device)
        self.windows = set(windows_of(model.config) or ())
        super().__init__(model, room)
        self.steps = 0  # by single tokens
        self.graph: torch.cuda.CUDAGraph | None = None

    @classmethod
    def possible(cls, model: PreTrainedModel) -> bool:
        """Whether such steps are right, asked once of each model."""
        if not isinstance(model, PreTrainedModel) or not model._can_compile_fullgraph or not attends_alone(model):
            return False
        if any(hasattr(weight, "ds_id") for weight in model.parameters()):  # ZeRO-3 moves weights
            return False
        if model not in _fixed:
            _fixed[model] = _knows_windows(model) and cls(model, SHORT).ready and _right_steps(model, cls)
        return _fixed[model]

    def _cache(self, room: int) -> DynamicCache:
        return fixed_cache(self.model.config, self.room, self.column)

    def _ready(self, mask: Tensor) -> Any:
        whole = super()._ready(mask)
        window = next((window for window in self.windows if window is not None), None)
        if window is None:
            return whole
        near = whole & (self.places > self.column - window)
        return {"full_attention": whole, "sliding_attention": near} if None in self.windows else near

    def step(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        if ids.shape[1] == mask.shape[1]:
            self.ids, self.positions = ids[:, -1:].clone(), positions[:, -1:].clone()
            self.mask = mask.new_zeros(len(mask), self.room)
            self.mask[:, : mask.shape[1]] = mask
            self.column.fill_(mask.shape[1] - 1)
            return super().step(ids, mask, positions)
        self.ids.copy_(ids)
        self.steps += 1
        if self.steps == 2 and graphs.on(self.model.device):
            self._record()
        if self.graph is None:
            return self._next()
        self.graph.replay()
        return self.result

    def _next(self) -> Tensor:
        self.column += 1
        self.positions += 1
        self.mask.index_fill_(1, self.column, 1)
        return super().step(self.ids, self.mask, self.positions)

    def _record(self) -> None:
        try:
            self.graph, self.result = graphs.record(self._next, self.model.device)
        except RuntimeError as error:
            _fixed[self.model] = False
            log.warning(
                "%s: a step of sampling could not be recorded, so each launches its kernels anew: %s",
                type(self.model).__name__, str(error).splitlines()[0],
            )  # fmt: skip

    def keep(self, rows: Tensor) -> None:
        raise NotImplementedError("rows stay")


def _large_head(model: PreTrainedModel) -> Head | None:
    """The head, where it is worth while to compute it by itself."""
    if not isinstance(model, PreTrainedModel) or not wins_by_blocks(model.get_output_embeddings()):
        return None
    head = head_apart(model)
    return head if head is not None and head.plain else None


def head_apart(model: PreTrainedModel) -> Head | None:
    """The head, where the trunk may be called by itself: it takes masks, positions and a cache as the model does."""
    accepted = signature(trunk_of(model).forward).parameters
    return head_of(model) if {"attention_mask", "position_ids", "past_key_values"} <= accepted.keys() else None


class Rereading:
    """Nothing is kept: each step reads the rows from their beginning, padded on the right."""

    shrinks = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.trunk, self.head = trunk_of(model), head_of(model)
        self.rows: list[list[int]] = []

    def step(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        if self.rows:
            self.rows = [[*row, token] for row, token in zip(self.rows, ids[:, 0].tolist(), strict=True)]
        else:
            self.rows = [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True)]
        longest = max(map(len, self.rows))
        padded = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in self.rows], device=ids.device)
        states = last_states(self.trunk, padded, torch.arange(longest, device=ids.device)[None])
        ends = torch.tensor([len(row) - 1 for row in self.rows], device=ids.device)
        return self.head.logits(states[torch.arange(len(ends), device=ids.device), ends])

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]


def keep_rows(cache: DynamicCache, rows: Tensor) -> None:
    """`batch_select_indices` for layers with recurrent states too."""
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(rows)
        else:
            layer.batch_select_indices(rows)


def _knows_windows(model: PreTrainedModel) -> bool:
    """Whether masks can limit layers to their window: there is one, of all layers or of those of one type."""
    windows = windows_of(model.config)
    if windows is None or len(set(windows) - {None}) > 1:
        return False
    types = {"sliding_attention" if window else "full_attention" for window in windows}
    return set(getattr(model.config.get_text_config(), "layer_types", None) or types) == types


def attends_alone(model: PreTrainedModel) -> bool:
    """Whether all that a model keeps of what it has read are keys and values: a prefix may be shared by many rows."""
    layers = DynamicCache(config=model.config).layers
    known_kind = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return known_kind and _takes(model, "past_key_values") and not model._is_stateful


@torch.no_grad()
def cache_holds(model: PreTrainedModel) -> bool:
    """Whether steps by `Cached` are right, on two short rows of which one leaves. Asked once of each model."""
    if model not in _asked:
        has_cache = any(_takes(model, name) for name in ("past_key_values", "cache_params"))
        _asked[model] = has_cache and _right_steps(model)
        if not _asked[model]:
            name = type(model).__name__
            log.warning("%s keeps no cache that rows of a batch can share; sampling reads them anew at each step", name)
    return _asked[model]


def _right_steps(model: PreTrainedModel, kind: type[Cached] = Cached) -> bool:
    exact = model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)
    if not exact and kind is Cached and attends_alone(model):
        return True  # rounding, above all of a router of experts, hides what there is to see
    training, device = model.training, model.device
    ids = torch.tensor([[5, 5, 3, 4, 6], [4, 6, 3, 5, 3]], device=device)  # the first row begins with padding
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], device=device)
    positions = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]], device=device)
    alone = model.eval()(input_ids=torch.tensor([[3, 4, 6, 7]], device=device), use_cache=False).logits[0, -2:].float()
    try:
        cached = kind(model, SHORT)
        before = cached.step(ids, mask[:, :5], positions)[0]
        stay = [0] if cached.shrinks else [0, 1]
        if cached.shrinks:
            cached.keep(torch.tensor(stay, device=device))
        picked = torch.tensor([[7], [7]], device=device)[stay]
        after = cached.step(picked, mask[stay], positions[stay, -1:] + 1)[0]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):  # each has its own
        return False
    finally:
        model.train(training)
    found = torch.stack([before, after]).float()
    there = alone.isfinite()
    most = (found - alone)[there].abs().max()
    return bool(most <= (1e-3 if exact else 0.1) * alone[there].abs().max())


def known(model: PreTrainedModel, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a model's forward knows by name: ALiBi has no positions, Bloom refuses others."""
    return {name: value for name, value in given.items() if _takes(model, name)}


def _takes(model: PreTrainedModel, name: str) -> bool:
    accepted = signature(model.forward).parameters
    return name in accepted or "input_ids" not in accepted  # one that only hands on says nothing


def _takes_ready_masks(model: PreTrainedModel, cache: DynamicCache) -> bool:
    """Whether a token's mask (B, 1, 1, T) may be given as attention uses it, which spares its making at each step.

    Not where layers see through windows, or positions are not rotations and may come of the mask itself (ALiBi).
    """
    rotary = hasattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb")  # as model files call it
    plain = all(isinstance(layer, ReservedLayer | FixedLayer) for layer in cache.layers)
    return rotary and plain and model.config._attn_implementation == "sdpa"
