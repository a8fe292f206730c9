"""The last layer of a split trunk may leave out what nobody reads."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from morlaif.preference.model import Batch, places, pool
from morlaif.preference.split import SplitTrunk

SMALL = {"vocab_size": 40, "pad_token_id": 0}


def _llama():
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, **SMALL)
    return LlamaForSequenceClassification(config)


def _gpt2():
    return GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=32, **SMALL))


@pytest.mark.parametrize("how", ["last", "mean"])
@pytest.mark.parametrize("build", [_llama, _gpt2])
def test_what_is_read_is_the_same_when_the_rest_is_left_out(build, how):
    torch.manual_seed(0)
    model = build().eval()
    split = SplitTrunk(model, 2)
    batch = Batch(torch.randint(1, 40, (3, 9)), torch.tensor([2, 5, 1]), torch.tensor([9, 7, 4]))
    rows = batch.repeat(2)
    below = (
        split.lower(batch.ids).detach().repeat(2, 1, 1) * torch.tensor([1.0, 1.3]).repeat_interleave(3)[:, None, None]
    )

    def pooled(read):
        model.zero_grad()
        found = pool(split.upper(below, read), rows, how)
        found.square().sum().backward()
        return found.detach(), [w.grad.clone() for w in model.parameters() if w.grad is not None]

    whole, whole_grad = pooled(None)
    part, part_grad = pooled(places(batch, how))
    torch.testing.assert_close(part, whole)
    torch.testing.assert_close(part_grad, whole_grad)
    assert not torch.allclose(split.upper(below, places(batch, how)), split.upper(below))
