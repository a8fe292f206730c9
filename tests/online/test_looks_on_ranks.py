"""What a policy whose weights lie in parts (ZeRO-3) says of responses is what a whole one says."""

from __future__ import annotations

import math
from pathlib import Path

import processes
import pytest
import small_ppo
import torch
import zero

from morlaif import sharded
from morlaif.models.load import load_causal_lm
from morlaif.online.looks import response_logprobs

pytestmark = pytest.mark.slow
PROMPTS = [[5, 6, 7], [8, 9], [5]]
RESPONSES = [[10, 11], [12, 13, 14, 15], [16]]


def looked(folder: str, gathers: list[float], parts: bool) -> list[list[float]]:
    """With each of `gathers`, the most bytes that are gathered whole."""
    held = zero.parts(zero.accelerator(3, 2).state.deepspeed_plugin.deepspeed_config) if parts else None
    model = load_causal_lm(folder, tokenizer=small_ppo.tokenizer()).eval()
    assert sharded.is_sharded(next(model.parameters())) == parts
    given = (model, small_ppo.tokenizer(), PROMPTS, RESPONSES)
    found = [response_logprobs(*given, temperature=0.7, rows=2, gather=most) for most in gathers]
    del held
    return found


@zero.NEEDED
def test_weights_in_parts_are_gathered_whole_or_by_module(tmp_path: Path) -> None:
    small_ppo.llama().save_pretrained(tmp_path / "model")
    small_ppo.tokenizer().save_pretrained(tmp_path / "model")
    (whole,) = looked(str(tmp_path / "model"), [math.inf], parts=False)
    model = small_ppo.llama().eval()
    for prompt, response, found in zip(PROMPTS, RESPONSES, whole, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double() / 0.7
        own = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum().item()
        assert found == pytest.approx(own, rel=1e-4)
    given = (str(tmp_path / "model"), [math.inf, 0], True)
    for both in processes.run(looked, *given, folder=tmp_path, ranks=2, timeout=150):
        for found in both:
            assert found == pytest.approx(whole, rel=1e-4)
