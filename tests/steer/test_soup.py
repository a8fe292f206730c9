"""Soups against sums by hand and against peft."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_ppo
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from morlaif.errors import UserError
from morlaif.models.load import load_policy, point_to_adapter, save_adapter, save_policy
from morlaif.steer.soup import depth_of, mean, merge_policies

LORA = {"target_modules": "all-linear", "init_lora_weights": False}


@pytest.fixture(scope="module")
def tokenizer():
    return small_ppo.tokenizer()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer) -> list[Path]:
    """Three policies of one form."""
    folders = [tmp_path_factory.mktemp(f"whole{seed}") for seed in range(3)]
    for seed, folder in enumerate(folders):
        save_policy(small_ppo.llama(seed), tokenizer, folder)
    return folders


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, tokenizer, whole) -> list[Path]:
    """Three adapters on the first of them; the last of another rank and scale."""
    made = []
    for seed, (rank, alpha) in enumerate([(2, 4), (2, 4), (3, 5)]):
        model, _ = load_policy(whole[0])
        torch.manual_seed(10 + seed)
        folder = tmp_path_factory.mktemp(f"adapter{seed}")
        save_adapter(get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, **LORA)), tokenizer, folder)
        point_to_adapter(folder, whole[0])
        made.append(folder)
    return made


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def logits(folder: Path) -> torch.Tensor:
    model, _ = load_policy(folder)
    with torch.no_grad():
        return model(torch.arange(3, 13)[None]).logits


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    """The update of each layer, as peft itself merges it."""
    model, _ = load_policy(folder)
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_a_soup_is_the_mean_of_weights_by_hand(whole, tmp_path):
    merge_policies(whole, [0.5, 0.2, 0.3], tmp_path)
    parts, found = [weights_of(folder) for folder in whole], weights_of(tmp_path)
    assert found.keys() == parts[0].keys()
    for name, tensor in found.items():
        by_hand = 0.5 * parts[0][name] + 0.2 * parts[1][name] + 0.3 * parts[2][name]
        torch.testing.assert_close(tensor, by_hand, rtol=1e-6, atol=1e-7)
        assert tensor.dtype == parts[0][name].dtype
    assert not torch.equal(logits(tmp_path), logits(whole[0]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "adapted"])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_all_weight_on_one_policy_is_that_policy_bit_for_bit(kind, k, whole, adapted, tmp_path):
    folders = whole if kind == "whole" else adapted
    merge_policies(folders, [float(j == k) for j in range(3)], tmp_path)
    part = "model/model.safetensors" if kind == "whole" else "adapter/adapter_model.safetensors"
    assert (tmp_path / part).read_bytes() == (folders[k] / part).read_bytes()
    assert torch.equal(logits(tmp_path), logits(folders[k]))


def test_a_soup_loads_with_transformers_alone(whole, tmp_path):
    merge_policies(whole[:2], [0.25, 0.75], tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(plain(torch.arange(3, 13)[None]).logits, logits(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("split", [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
def test_updates_of_adapters_are_averaged_as_peft_concatenates_them(split, adapted, whole, tmp_path):
    merge_policies(adapted, split, tmp_path)
    model, _ = load_policy(whole[0])
    names = [f"p{k}" for k in range(3)]
    peft = PeftModel.from_pretrained(model, adapted[0] / "adapter", adapter_name=names[0])
    for name, folder in zip(names[1:], adapted[1:], strict=True):
        peft.load_adapter(folder / "adapter", adapter_name=name)
    kept = [(name, weight) for name, weight in zip(names, split, strict=True) if weight]
    peft.add_weighted_adapter([n for n, _ in kept], [w for _, w in kept], "soup", combination_type="cat")
    peft.set_adapter("soup")
    expected = dict(peft.merge_and_unload().named_parameters())
    for name, weight in deltas(tmp_path).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_updates_are_the_mean_of_merged_models(adapted, tmp_path):
    merge_policies(adapted, [0.2, 0.3, 0.5], tmp_path)
    parts = [deltas(folder) for folder in adapted]
    for name, weight in deltas(tmp_path).items():
        by_hand = sum(share * part[name] for share, part in zip([0.2, 0.3, 0.5], parts, strict=True))
        torch.testing.assert_close(weight, by_hand, rtol=1e-5, atol=1e-6)


def test_factors_are_averaged_apart_and_keep_the_rank(adapted, tmp_path):
    merge_policies(adapted[:2], [0.5, 0.5], tmp_path, merge="factors")
    file = "adapter/adapter_model.safetensors"
    first, second, found = (load_file(folder / file) for folder in (*adapted[:2], tmp_path))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    exact = tmp_path / "exact"
    merge_policies(adapted[:2], [0.5, 0.5], exact)
    assert not torch.allclose(logits(tmp_path), logits(exact), atol=1e-3)


def test_factors_of_unlike_ranks_are_refused(adapted, tmp_path):
    with pytest.raises(UserError, match="merge=factors takes adapters of one rank"):
        merge_policies(adapted, [0.2, 0.3, 0.5], tmp_path, merge="factors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "adapted"])
def test_layers_may_have_weights_of_their_own(kind, whole, adapted, tmp_path):
    folders = (whole if kind == "whole" else adapted)[:2]
    merge_policies(folders, [0.5, 0.5], tmp_path, by_depth=lambda depth, weights: (1, 0) if depth < 0.5 else (0, 1))
    first, second, found = deltas(folders[0]), deltas(folders[1]), deltas(tmp_path)
    for name, weight in found.items():
        own = first if "embed" in name or ".0." in name else second
        torch.testing.assert_close(weight, own[name], rtol=1e-6, atol=1e-7)
    if kind == "whole":
        assert torch.equal(found["model.layers.1.mlp.up_proj.weight"], second["model.layers.1.mlp.up_proj.weight"])


def test_constant_weights_by_layer_are_those_weights(adapted, tmp_path):
    merge_policies(adapted, [0.2, 0.3, 0.5], tmp_path / "a")
    merge_policies(adapted, [0.2, 0.3, 0.5], tmp_path / "b", by_depth=lambda depth, weights: weights)
    assert torch.equal(logits(tmp_path / "a"), logits(tmp_path / "b"))


SHARES = st.lists(st.integers(1, 9), min_size=2, max_size=4).map(lambda parts: [part / sum(parts) for part in parts])


@given(SHARES, st.integers(0, 1000))
def test_the_mean_of_equal_tensors_is_that_tensor(shares, seed):
    tensor = torch.randn(7, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(mean([tensor.clone() for _ in shares], shares), tensor)
    half = tensor.bfloat16()
    assert torch.equal(mean([half] * len(shares), shares), half)


@given(SHARES, st.integers(0, 1000), st.randoms())
def test_the_order_of_policies_does_not_matter(shares, seed, random):
    generator = torch.Generator().manual_seed(seed)
    pairs = [(torch.randn(7, generator=generator), share) for share in shares]
    found = mean(*zip(*pairs, strict=True))
    random.shuffle(pairs)
    torch.testing.assert_close(mean(*zip(*pairs, strict=True)), found, rtol=1e-6, atol=1e-7)


def test_weights_split_over_several_files_stay_in_them(whole, tmp_path):
    split = []
    for k, folder in enumerate(whole[:2]):
        model, tokenizer = load_policy(folder)
        split.append(tmp_path / f"split{k}")
        model.save_pretrained(split[-1] / "model", max_shard_size="8KB")
        tokenizer.save_pretrained(split[-1] / "model")
    merge_policies(split, [0.5, 0.5], tmp_path / "soup")
    merge_policies(whole[:2], [0.5, 0.5], tmp_path / "one")
    index = json.loads((tmp_path / "soup" / "model" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert torch.equal(logits(tmp_path / "soup"), logits(tmp_path / "one"))


@pytest.mark.parametrize(
    ("name", "depth"),
    [("model.embed_tokens.weight", 0.0), ("model.layers.0.mlp.up_proj.weight", 0.25),
     ("transformer.h.1.ln_1.bias", 0.75),
     ("transformer.h.1.ln_1.weight", 0.75), ("model.norm.weight", 1.0), ("lm_head.weight", 1.0)],
)  # fmt: skip
def test_depth_is_read_from_names(name, depth):
    assert depth_of(name, 2) == depth


@pytest.mark.parametrize(
    ("weights", "line"),
    [([0.5, 0.4], "sum to 0.9"), ([1.5, -0.5], "none may be below zero"), ([1.0], "1 for 2 policies"),
     ([float("nan"), 1], "none may be below zero")],
)  # fmt: skip
def test_weights_off_the_simplex_are_refused(weights, line, whole, tmp_path):
    with pytest.raises(UserError, match=line):
        merge_policies(whole[:2], weights, tmp_path)


def test_policies_of_other_forms_are_refused(whole, adapted, tokenizer, tmp_path):
    with pytest.raises(UserError, match="a whole model, and others to merge are adapters"):
        merge_policies([whole[0], adapted[0]], [0.5, 0.5], tmp_path)
    save_policy(small_ppo.gpt2(), tokenizer, tmp_path / "gpt2")
    with pytest.raises(UserError, match="in one of the policies alone"):
        merge_policies([whole[0], tmp_path / "gpt2"], [0.5, 0.5], tmp_path / "out")
