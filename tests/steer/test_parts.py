"""Rank-one parts: what is left of a policy, at any weights, is the policy that was trained at these weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_ppo
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from morlaif.models.load import load_policy, point_to, point_to_adapter, save_policy
from morlaif.models.place import Source
from morlaif.rl.engine import Engine
from morlaif.rl.policy import ActorCritic
from morlaif.stages.work.policies import leave_policy
from morlaif.steer.conditioning import Steering, read_steering
from morlaif.steer.parts import FILE, fold

NAMES = ("a", "b", "c")
OWN = (0.5, 0.25, 0.25)
IDS = torch.tensor([[3, 7, 11, 4, 9]])


def policy(model: torch.nn.Module, export: str = "merged") -> ActorCritic:
    """With an adapter whose every weight, and every scale, is some number."""
    config = small_ppo.settings(
        **{
            "policy.kind": "lora",
            "policy.r": 2,
            "policy.alpha": 4.0,
            "critic.kind": "none",
            "advantage": "reinforce_pp",
        }
    )
    made = ActorCritic(model, config, steered=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in made.trained_state().values():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return made


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def at(made: ActorCritic, weights: tuple[float, ...]) -> torch.Tensor:
    assert made.parts is not None
    with made.parts.at(weights):
        return logits(made.model)


@pytest.mark.parametrize("make", [small_ppo.llama, small_ppo.gpt2])
def test_the_hook_is_the_update_of_the_paper(make) -> None:
    """W0 + alpha / r (B A + Σ s w_k b_k a_k), layer by layer, by hand."""
    made = policy(make())
    assert made.parts is not None and made.parts.layers
    weights = (0.1, 0.7, 0.2)
    for layer in made.parts.layers.values():
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        x = torch.randn(2, down.shape[1], generator=torch.Generator().manual_seed(0))
        gain = torch.tensor([1.0, 1.0, *(layer.steer_scale.item() * w for w in weights)])
        wanted = layer.base_layer(x) + 4.0 / 2 * ((x @ down.T) * gain) @ up.T
        with made.parts.at(weights), torch.no_grad():
            torch.testing.assert_close(layer(x), wanted)


def test_folded_tensors_are_the_policy_and_come_back_as_they_were() -> None:
    made = policy(small_ppo.llama())
    assert made.parts is not None
    before = {name: value.clone() for name, value in made.trained_state().items()}
    with made.parts.at((0.0, 1.0, 0.0)):
        wanted = logits(made.model)
        with made.plain():
            torch.testing.assert_close(logits(made.model), wanted)
            assert not all(torch.equal(before[name], value) for name, value in made.trained_state().items())
        assert torch.equal(logits(made.model), wanted)
    assert all(torch.equal(before[name], value) for name, value in made.trained_state().items())


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_ppo.llama, small_ppo.gpt2])
@pytest.mark.parametrize("export", ["merged", "adapter", "both"])
def test_what_is_left_is_the_policy_at_any_weights(tmp_path: Path, export: str, make) -> None:
    sft, out = tmp_path / "sft", tmp_path / "out"
    tokenizer = small_ppo.tokenizer()
    save_policy(make(), tokenizer, sft)
    base, _ = load_policy(sft)
    made = policy(base)
    engine = Engine(made, small_ppo.settings())
    leave_policy(engine, tokenizer, export, sft, out, steering=Steering("lora", NAMES, OWN))
    steering = read_steering(out)
    assert steering is not None and (out / FILE).is_file()
    if export != "adapter":  # the policy of the arm, for everybody
        torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out / "model")), at(made, OWN))
    if export != "merged":  # a plain adapter, for peft
        plain = AutoModelForCausalLM.from_pretrained(sft / "model")
        torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, out / "adapter")), at(made, OWN))
    model, _ = load_policy(out)
    usual = logits(model)
    torch.testing.assert_close(usual, at(made, OWN))
    for weights in ((1.0, 0.0, 0.0), (0.2, 0.3, 0.5), (0.0, 0.0, 1.0)):
        found = steering.at(model, dict(zip(NAMES, weights, strict=True)))
        assert found is model
        torch.testing.assert_close(logits(model), at(made, weights), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(steering.at(model, steering.usual)), usual)  # and back, with nothing left behind
    model, _ = load_policy(out)
    fold(model, out, [one - own for one, own in zip((0.2, 0.3, 0.5), OWN, strict=True)])
    save_policy(model, tokenizer, tmp_path / "folded")
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "folded" / "model")
    torch.testing.assert_close(logits(folded), at(made, (0.2, 0.3, 0.5)), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_pointer_to_an_untouched_base_will_do(tmp_path: Path) -> None:
    """As `sft=none` leaves it."""
    where, sft, out = tmp_path / "base", tmp_path / "sft", tmp_path / "out"
    tokenizer = small_ppo.tokenizer()
    save_policy(small_ppo.llama(), tokenizer, where)
    sft.mkdir()
    point_to(sft, Source(str(where / "model")))
    made = policy(load_policy(sft)[0])
    leave_policy(
        Engine(made, small_ppo.settings()), tokenizer, "adapter", sft, out, steering=Steering("lora", NAMES, OWN)
    )
    point_to_adapter(out, sft)
    model, _ = load_policy(out)
    steering = read_steering(out)
    assert steering is not None
    torch.testing.assert_close(logits(steering.at(model, {"b": 2.0})), at(made, (0.0, 1.0, 0.0)), atol=1e-4, rtol=1e-4)
