"""`hardware=cpu2_zero3 stages=[sft]`, as a user runs it: two gloo processes under ZeRO-3 on a tiny Llama."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cli
import pytest
import ranked
import torch
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

TIMEOUT = 150  # seconds of wall time, on a machine that may be busy; alone a run takes some 12
TINY = [
    "experiment=smoke", "stages=[sft]", "data.sft=90", "sft.max_steps=8", "sft.batch_size=8", "sft.micro_batch_size=2",
    "sft.log_every=1", "sft.checkpoint_every=3",
]  # fmt: skip


def morlaif(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ranked.morlaif(folder, [*TINY, *arguments], TIMEOUT)


def losses(folder: Path) -> dict[int, float]:
    (file,) = folder.glob("store/sft/*/metrics.jsonl")
    return {row["step"]: row["metrics"]["loss"] for row in map(json.loads, file.read_text().splitlines())}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("store/sft/*/model")
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def assert_same(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), rel=1e-4) and len(losses(one)) == 8
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = morlaif(folder, "hardware.workers=1")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def start_until_checkpoint(folder: Path, *arguments: str, fresh: bool = False) -> subprocess.Popen[str] | cli.Run:
    checkpoint = "store/sft/.*/keep/checkpoint-3/trainer_state.json"
    return ranked.start_until(folder, [*TINY, *arguments], checkpoint, TIMEOUT, fresh)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3 * TIMEOUT)
def test_a_killed_rank_is_named_and_one_process_goes_on_from_its_checkpoint(alone, tmp_path):
    process = start_until_checkpoint(tmp_path, "hardware=cpu2_zero3", "sft.max_steps=8")
    ranked.kill_rank(process, tmp_path, 1, "sft")
    done = morlaif(tmp_path, "hardware.workers=1")  # another number of ranks: none at all
    ranked.assert_went_on(done, tmp_path, "sft")
    assert_same(alone, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3 * TIMEOUT)
def test_ranks_end_with_a_run_that_is_killed_and_two_go_on_to_what_one_process_learns(alone, tmp_path):
    process = start_until_checkpoint(tmp_path, "hardware=cpu2_zero3", fresh=True)  # as a user starts it
    ranked.kill_run(process, tmp_path, group=True)
    done = morlaif(tmp_path, "hardware=cpu2_zero3")
    ranked.assert_went_on(done, tmp_path, "sft")
    assert_same(alone, tmp_path)
    (run,) = tmp_path.glob("runs/*")
    assert json.loads((run / "ranks/sft/ds.json").read_text())["zero_optimization"]["stage"] == 3
    assert (run / "logs/sft.rank-0.log").is_file() and (run / "logs/sft.rank-1.log").is_file()
