"""Preference models on two gloo processes under ZeRO-3, as a user trains them: killed again and again; whole ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranked
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TIMEOUT = 200  # seconds of wall time of one run, on a machine that may be busy; alone it takes some 15
TINY = [
    "experiment=smoke", "model=toy_small", "arms.select=[morlaif]", "stages=[pm]", "data.sft=60", "data.train=24",
    "sft.max_steps=2", "sft.batch_size=4", "pm.batch_size=8", "pm.epochs=10", "pm.checkpoint_every=5",
    "pm.learning_rate=1e-3", "pm.head_learning_rate=1e-2",
]  # fmt: skip
CHECKPOINT = "store/pm/.*/keep/training/*/step-*.json"
UNIT = "pm/helpfulness"  # the first of three: the checkpoints of all lie with it


def losses(folder: Path) -> dict[tuple[str, int], float]:
    found = {}
    for file in folder.glob("store/pm/*/metrics.jsonl"):
        name = json.loads((file.parent / "manifest.json").read_text())["name"]
        for row in map(json.loads, file.read_text().splitlines()):
            found[name, row["step"]] = row["metrics"]["loss"]
    return found


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    """A store with all that preference models are trained on."""
    folder = tmp_path_factory.mktemp("judged")
    trained(folder, "stages=[feedback,sft]", "hardware.workers=1")
    return folder / "store"


def trained(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = ranked.morlaif(folder, [*TINY, *arguments], TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(4 * TIMEOUT)
def test_a_killed_rank_is_named_and_one_process_goes_on(judged, tmp_path):
    """The kill comes at some sixth of the 30 steps: on a busy machine, too, there is much left to do."""
    alone, other = tmp_path / "alone", tmp_path / "other"
    for folder in (alone, other):
        shutil.copytree(judged, folder / "store")
    trained(alone, "hardware.workers=1")

    process = ranked.start_until(other, [*TINY, "hardware=cpu2_zero3"], CHECKPOINT, TIMEOUT)
    ranked.kill_rank(process, other, 1, UNIT)
    done = trained(other, "hardware.workers=1")  # another number of ranks: none at all
    ranked.assert_went_on(done, other, UNIT)

    whole = losses(alone)
    assert len(whole) == 3 * 30 and losses(other) == pytest.approx(whole, rel=1e-4, abs=1e-4)
    assert not list(other.glob(CHECKPOINT))


@pytest.mark.timeout(3 * TIMEOUT)
def test_a_whole_model_is_trained_in_parts(judged, tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    full = ["pm=toy_full", "pm.epochs=3", "pm.micro_batch_size=2", "pm.learning_rate=1e-3", "principles.count=1"]
    for folder, hardware in ((alone, "hardware.workers=1"), (two, "hardware=cpu2_zero3")):
        shutil.copytree(judged, folder / "store")
        trained(folder, hardware, *full)
    assert len(losses(alone)) == 9 and losses(two) == pytest.approx(losses(alone), rel=1e-4)
    (run,) = two.glob("runs/*")
    assert json.loads((run / "ranks/pm-helpfulness/ds.json").read_text())["zero_optimization"]["stage"] == 3
    (one,), (other,) = (folder.glob("store/pm/*/model/model.safetensors") for folder in (alone, two))
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)
