"""Who gets which GPU, on a machine that says it has two."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from morlaif.devices import gpus, one_gpu, own_gpu, slot_environment
from morlaif.hardware import HardwareSettings
from morlaif.launch.launcher import rank_environment
from morlaif.presets import preset

CONF = Path(__file__).parents[2] / "conf" / "hardware"


def hardware(name: str, **changes) -> HardwareSettings:
    return HardwareSettings(**preset("hardware", name) | changes)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab")


def test_workers_take_the_gpus_in_turn_and_ranks_take_all(two_gpus, monkeypatch):
    own = [slot_environment(hardware("gpu", workers=3), slot) for slot in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in own] == ["3", "GPU-ab", "3"]
    for name, value in own[1].items():
        monkeypatch.setenv(name, value)
    assert rank_environment(hardware("a100x8_zero3_lora"))["CUDA_VISIBLE_DEVICES"] == "3,GPU-ab"


def test_workers_on_a_cpu_share_its_cores(two_gpus, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert slot_environment(hardware("cpu", workers=4, threads=None), 1) == {"OMP_NUM_THREADS": "2"}
    assert slot_environment(hardware("cpu", workers=4, threads=3), 1) == {}


def test_no_gpu_is_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []


@pytest.mark.slow
def test_jobs_side_by_side_get_a_gpu_each_and_a_third_waits(two_gpus, tmp_path):
    before = os.environ["CUDA_VISIBLE_DEVICES"]
    third: list[str | None] = []

    def take() -> None:
        with one_gpu(tmp_path) as name:
            third.append(name)

    # Each job is a process; here the environment is put back between them.
    with one_gpu(tmp_path) as first:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == first
        os.environ["CUDA_VISIBLE_DEVICES"] = before
        with one_gpu(tmp_path) as second:
            assert {first, second} == {"3", "GPU-ab"}
            os.environ["CUDA_VISIBLE_DEVICES"] = before
            waiting = threading.Thread(target=take)
            waiting.start()
            waiting.join(0.3)
            assert third == []
        waiting.join(20)
        assert third == [second]


def test_only_jobs_side_by_side_on_this_machine_take_one(two_gpus):
    joblib, submitit = "hydra_plugins.hydra_joblib_launcher.x.JoblibLauncher", "hydra_plugins.submitit.SlurmLauncher"
    assert not isinstance(own_gpu(joblib, hardware("gpu")), nullcontext)
    for launcher, name in ((submitit, "gpu"), (joblib, "cpu"), (joblib, "a100x8_zero3_lora")):
        assert isinstance(own_gpu(launcher, hardware(name)), nullcontext)
