"""DPO on two processes, whole or in parts (ZeRO-3), is DPO on one: the same curve, the same weights, up to rounding."""

from __future__ import annotations

import math
from pathlib import Path

import processes
import pytest
import small_dpo
import small_ppo
import torch
import zero

from morlaif.errors import UserError
from morlaif.models.load import load_causal_lm

pytestmark = pytest.mark.slow
LOOKS = {"eval_every": 2, "max_steps": 3, "checkpoint_every": 2}
CASES = {
    "full": {"batch_size": 7, "micro_batch_size": 2},  # four micro-batches, and one of a pair
    "lora": {"batch_size": 5, "micro_batch_size": 2, "policy": {"kind": "lora", "r": 4}},  # three: one rank has none
}


def train(changes: dict, keep: str, stage: int = 0, loaded: str | None = None):
    config = small_dpo.settings(**(LOOKS | changes))
    how = {"accelerator": zero.accelerator(stage, config.micro_batch_size)} if stage else {}
    models, kept = {}, None
    if loaded is not None:
        kept = zero.parts(how["accelerator"].state.deepspeed_plugin.deepspeed_config)
        model, twin = (load_causal_lm(loaded, tokenizer=small_ppo.tokenizer()) for _ in range(2))
        models = {"model": model, "reference": twin if config.policy.kind == "full" else None}
    held_out = small_dpo.pairs(config).pick(range(5))
    run = small_dpo.trainer(config, Path(keep), held_out=held_out, prompts=small_ppo.PROMPTS[:5], **models, **how)
    found = run.run()
    del kept
    return found.curve, torch.cat([value.flatten() for value in run.engine.weights().values()]), found.reference


def assert_same(found, curve, weights, reference):
    assert torch.equal(found[0][1], found[1][1])  # ranks agree to the bit
    assert torch.allclose(found[0][1], weights, atol=2e-5)
    assert torch.allclose(found[0][2], reference, atol=1e-4)
    for row, expected in zip(found[0][0], curve, strict=True):
        assert row.keys() == expected.keys()
        for key in row:
            assert math.isclose(row[key], expected[key], rel_tol=1e-3, abs_tol=2e-4), key


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_make_the_run_of_one(name, tmp_path):
    want = train(CASES[name], str(tmp_path / "one"))
    found = processes.run(train, CASES[name], str(tmp_path / "two"), folder=tmp_path, ranks=2)
    assert_same(found, *want)
    for path in (tmp_path / "two").glob("step-00000003.*"):
        path.unlink()
    again = train(CASES[name], str(tmp_path / "two"))  # one process goes on from what two have written
    assert torch.allclose(again[1], want[1], atol=2e-5)


@zero.NEEDED
@pytest.mark.timeout(450)
@pytest.mark.parametrize("name", CASES)
def test_a_model_in_parts_makes_the_run_of_one(name, tmp_path):
    small_ppo.llama().save_pretrained(tmp_path / "model")
    small_ppo.tokenizer().save_pretrained(tmp_path / "model")
    want = train(CASES[name], str(tmp_path / "one"))
    given = (CASES[name], str(tmp_path / "two"), 3, str(tmp_path / "model"))
    assert_same(processes.run(train, *given, folder=tmp_path, ranks=2, timeout=200), *want)


def too_few() -> str:
    try:
        small_dpo.trainer(small_dpo.settings(batch_size=1), Path("unused"))
    except UserError as error:
        return str(error)
    return "accepted"


def test_more_ranks_than_pairs_of_a_batch_are_reported(tmp_path):
    assert all("take 2 or more" in text for text in processes.run(too_few, folder=tmp_path, ranks=2))
