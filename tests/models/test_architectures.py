"""On small models of every architecture that people train: what is computed here is what transformers computes.

`benchmarks/architectures.py` measures and prints the same for any `model_type`.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from morlaif.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import architectures
from architectures import CHECKS, KINDS, Small

QUICK = ("llama", "granite", "gemma3_text", "falcon_h1", "mamba")
# What an architecture cannot do; the line that says so begins with the check's own words.
UNFIT = {
    "questions": {"gpt_neo", "bloom", "mpt", "jamba", "qwen3_next", "qwen3_5_text", "openai-gpt"},
    **{name: {"modernbert-decoder"} for name in ("scores", "joint", "trunks")},
}
# Where transformers' own answers depend on the padding, since recurrent layers read it.
PADDING_IS_READ = {"rwkv", "recurrent_gemma"}


@pytest.fixture(scope="module", params=[pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in KINDS])
def small(request) -> Small:
    return Small(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_agrees_with_the_model_itself(small: Small, check: str) -> None:
    no_classifier = check in ("scores", "joint", "trunks", "questions") and small.kind not in architectures.CLASSIFIERS
    if no_classifier or small.kind in UNFIT.get(check, ()):
        with pytest.raises(UserError, match=r"pm=conditioned|no linear layer|no sequence classifier"):
            CHECKS[check](small)
        return
    found = CHECKS[check](small)
    others = found.pop("generate", 0.0)
    assert max(found.values()) < 1e-5, found
    assert others == 0 or small.kind in PADDING_IS_READ or math.isnan(others)


def test_there_are_enough_of_them() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize(
    ("kind", "scale", "softcap"),
    [("llama", 1.0, None), ("cohere", 0.25, None), ("minicpm3", 8.0, None), ("gemma2", 1.0, 2.0),
     ("recurrent_gemma", 1.0, 30.0), ("nanochat", 1.0, 15.0)],
)  # fmt: skip
def test_the_formula_after_a_trunk_is_found_without_weights(kind: str, scale: float, softcap: float | None) -> None:
    from morlaif.models.head import head_of

    head = head_of(architectures.made(kind).to("meta"))
    assert head.plain and (head.scale, head.softcap) == (scale, softcap)


def test_a_difference_is_reported_with_its_size(tmp_path) -> None:
    import small_ppo
    from transformers import LlamaForCausalLM

    from morlaif.models.head import logits_fault

    class Late(LlamaForCausalLM):
        """Its logits depend on more than the last hidden state."""

        def forward(self, input_ids=None, **kwargs):
            found = super().forward(input_ids=input_ids, **kwargs)
            if (input_ids > 0).all():
                found.logits = found.logits + input_ids[..., None] / 10
                found.logits[..., 0] += 1.5
            return found

    torch.manual_seed(0)
    model = Late(small_ppo.llama().config).eval()
    assert "by up to" in str(logits_fault(model))
    assert logits_fault(small_ppo.llama().eval()) is None
