"""The reserved key-value cache against transformers' own, step about step."""

from __future__ import annotations

import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig

from morlaif.models.cache import ReservedLayer, reserved_cache

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_holds_what_a_dynamic_cache_holds():
    config = LlamaConfig(**SHAPE)
    ours, theirs = reserved_cache(config, 9), DynamicCache(config=config)
    torch.manual_seed(0)
    rows = 6
    for tokens, keep in ((5, None), (1, [0, 2, 3, 5]), (1, None), (1, [1, 3]), (1, None)):
        for layer in range(2):
            new = torch.randn(2, rows, 2, tokens, 4)
            for a, b in zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True):
                assert torch.equal(a, b)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if keep is not None:
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor(keep))
            rows = len(keep)
    assert ours.layers[0].keys.data_ptr() == ours.layers[0]._keys.data_ptr()  # a view of the room, never a copy


def test_a_layer_with_a_window_stays_transformers_own():
    cache = reserved_cache(MistralConfig(sliding_window=4, **SHAPE), 9)
    assert cache.layers and not any(isinstance(layer, ReservedLayer) for layer in cache.layers)
