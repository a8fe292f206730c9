"""The jobs of a grid run as under Hydra's own command line, and are composed less often."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from hydra import main as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from morlaif.compose import CONFIG_MODULE, CONFIG_NAME, compose_all, is_grid, register, run_sweep
from morlaif.usage import read_flags

SWEEP = ["experiment=smoke", "scalarizer=linear,max_min", "ppo.steps=1,2", "+hydra.job.env_set.MARK=x"]


def told(seen: list[dict]):
    def task(tree: DictConfig) -> None:
        hydra = HydraConfig.get()
        job = OmegaConf.to_container(hydra.job, resolve=True)
        seen.append({
            "config": OmegaConf.to_container(tree, resolve=True), "place": hydra.runtime.output_dir, "job": job,
            "mode": hydra.mode, "overrides": sorted(hydra.overrides.task), "choices": dict(hydra.runtime.choices),
            "launcher": hydra.launcher["_target_"],
        })  # fmt: skip

    return task


JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]  # in this process


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], JOBLIB])
def test_each_job_is_what_hydra_makes_of_it(
    launcher: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", *SWEEP, "hydra.sweep.subdir=there/${hydra.job.num}", *launcher]
    register()
    monkeypatch.setattr(sys, "argv", ["morlaif", *words])
    wanted: list[dict] = []
    hydra_main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(told(wanted))()
    found: list[dict] = []
    jobs, several, _ = compose_all(read_flags(words))
    assert several and is_grid(jobs)
    run_sweep(jobs, None, told(found))
    assert len(wanted) == 4
    assert found == wanted
    assert [Path(one["place"]).relative_to(tmp_path) for one in found] == [Path(f"runs/there/{n}") for n in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "times"), [([], 1), (JOBLIB, 2)])
def test_each_job_is_composed_once_and_once_where_a_launcher_runs_it(
    launcher: list[str], times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = ConfigLoaderImpl.load_configuration
    with patch.object(ConfigLoaderImpl, "load_configuration", autospec=True, side_effect=whole) as composed:
        jobs, _, _ = compose_all(read_flags(["-m", *SWEEP, *launcher]))
        run_sweep(jobs, None, lambda _: None)
    assert composed.call_count == times * len(jobs) + 1, "and what all of them share"


@pytest.mark.slow
def test_what_a_job_raises_is_raised_when_all_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[int] = []

    def task(_: DictConfig) -> None:
        ran.append(HydraConfig.get().job.num)
        raise ValueError(f"job {ran[-1]}")

    jobs, _, _ = compose_all(read_flags(["-m", "experiment=smoke", "seed=0,1"]))
    with pytest.raises(ValueError, match="job 0"):
        run_sweep(jobs, None, task)
    assert ran == [0, 1]
