"""The faster ways on a CPU give what transformers' own give, forwards and backwards."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama import modeling_llama

from morlaif.models.kernels import RMSNorm, Rotary, quicken

SHAPE = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "head_dim": 4, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
KINDS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),  # norms of queries and keys too
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE)),  # norms scale by 1 + weight: not ours
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4)),
}


def restore(model) -> None:
    """The rotary embedding of a model file as transformers has it."""
    import sys

    for name in {type(module).__module__ for module in model.modules()}:
        function = getattr(sys.modules[name], "apply_rotary_pos_emb", None)
        if hasattr(function, "original"):
            sys.modules[name].apply_rotary_pos_emb = function.original


def run(model, ids):
    model.zero_grad()
    logits = model(ids, position_ids=torch.arange(ids.shape[1])[None]).logits
    logits.log_softmax(-1)[..., 3].sum().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_stay(kind):
    torch.manual_seed(0)
    plain = KINDS[kind]().eval()
    restore(plain)
    with torch.no_grad():  # norms whose weights are not all one
        for name, weight in plain.named_parameters():
            if "norm" in name:
                weight += 0.3 * torch.randn_like(weight)
    quick = copy.deepcopy(plain)
    ids = torch.randint(1, 40, (3, 11))
    logits, gradient = run(plain, ids)
    quicken(quick)
    found_logits, found_gradient = run(quick, ids)
    restore(quick)
    assert torch.allclose(found_logits, logits, atol=1e-5, rtol=1e-5)
    assert torch.allclose(found_gradient, gradient, atol=1e-4, rtol=1e-4)


def test_what_is_replaced():
    model, gemma = KINDS["llama"](), KINDS["gemma2"]()
    quicken(model)
    quicken(gemma)
    try:
        assert hasattr(modeling_llama.apply_rotary_pos_emb, "original")
        assert "forward" in vars(model.model.norm)
        assert "forward" not in vars(gemma.model.norm)
        twin = copy.deepcopy(model)
        assert twin.model.norm.forward.__self__ is twin.model.norm  # a copy norms with its own weight
        half = model.model.norm(torch.ones(2, 16, dtype=torch.bfloat16))
        assert torch.equal(half, modeling_llama.LlamaRMSNorm.forward(model.model.norm, torch.ones(2, 16).bfloat16()))
    finally:
        restore(model)
        restore(gemma)


def test_gradients_against_finite_differences():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RMSNorm.apply, (x, weight, 1e-3))
    q = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)  # (B, heads, T, D)
    angles = torch.randn(2, 5, 1, 4, dtype=torch.float64).expand(-1, -1, 3, -1)
    assert torch.autograd.gradcheck(lambda t: Rotary.apply(t, angles.cos(), angles.sin()), (q,))
