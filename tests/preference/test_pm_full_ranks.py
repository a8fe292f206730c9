"""A whole preference model in parts on two gloo processes (ZeRO-2 and ZeRO-3) against the same in one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import processes
import pytest
import torch
import zero
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from morlaif import ranks
from morlaif.preference.train import train_pm

pytestmark = [pytest.mark.slow, zero.NEEDED]

QUICK = {
    "epochs": 2, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 1e-3, "head_learning_rate": 0.05,
    "max_grad_norm": 0.3, "weight_decay": 0.1, "checkpoint_every": 2,
}  # fmt: skip


class Killed(Exception):
    pass


def under_deepspeed(stage: int):
    """What the launcher makes ready; to be kept."""
    made = zero.accelerator(stage, QUICK["micro_batch_size"], accumulation=2)
    return made, zero.parts(made.state.deepspeed_plugin.deepspeed_config) if stage == 3 else None


def train(data: tuple, base: Path, settings, folder: Path, stage: int, kill_after: int = 99) -> dict[int, float]:
    kept = under_deepspeed(stage) if ranks.count() > 1 else None
    losses: dict[int, float] = {}

    def on_step(step: int, steps: int, loss: float) -> None:
        if step > kill_after:
            raise Killed
        losses[step] = loss

    (folder / "out").mkdir(parents=True, exist_ok=True)
    try:
        train_pm(
            *data, base, settings, principle="a", out=folder / "out", seed=3, on_step=on_step, keep=folder / "keep"
        )
    except Killed:
        assert kill_after < 99
    del kept
    return losses


def assert_same_model(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "out" / "model" / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4, msg=name)
    assert (one / "out/model/config.json").read_text() == (other / "out/model/config.json").read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("stage", "stopping"), [(2, None), (3, {"share": 0.3, "every": 2, "patience": 9})])
def test_in_parts_it_learns_as_whole(stage: int, stopping, llama, make_pairs, pm_settings, tmp_path) -> None:
    """Its last batch is odd and some verdicts are missing; killed, it goes on on another number of ranks."""
    pairs, verdicts = make_pairs(21, 0)
    verdicts = [v if i % 5 else dataclasses.replace(v, p_first=None, valid=False) for i, v in enumerate(verdicts)]
    settings = pm_settings("toy_full", **QUICK, early_stopping=stopping)
    data = (pairs, verdicts, *make_pairs(9, 1))
    whole = train(data, llama, settings, tmp_path / "whole", 0)
    assert len(whole) >= 4

    def two(folder: Path, kill_after: int = 99) -> dict[int, float]:
        given = (data, llama, settings, folder, stage, kill_after)
        first, second = processes.run(train, *given, folder=folder / f"run-{kill_after}", ranks=2, timeout=120)
        assert first == second
        return first

    assert two(tmp_path / "two") == pytest.approx(whole, rel=1e-4)
    assert_same_model(tmp_path / "two", tmp_path / "whole")
    if stage == 3:  # the one whose weights have to be gathered
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two/out/model")
        assert loaded.num_labels == 1

    # two ranks, then one; one, then two
    begun = two(tmp_path / "fewer", 3)
    ended = train(data, llama, settings, tmp_path / "fewer", 0)
    assert list(begun) == [1, 2, 3] and begun | ended == pytest.approx(whole, rel=1e-4) and min(ended) == 3
    assert_same_model(tmp_path / "fewer", tmp_path / "whole")
    begun = train(data, llama, settings, tmp_path / "more", 0, 3)
    ended = two(tmp_path / "more")
    assert begun | ended == pytest.approx(whole, rel=1e-4) and min(ended) == 3
    assert_same_model(tmp_path / "more", tmp_path / "whole")
