"""What starts runs on clusters, as far as it can be checked without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRUN = """echo "$*" > "$SLURM_SUBMIT_DIR/srun"
while [[ $1 == --* ]]; do shift; done
for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done"""
SCRIPTS = sorted((ROOT / "launch").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_pass_shellcheck(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111, "not executable"
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "--shell=bash", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_passes_hadolint():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def put(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
    (folder / name).chmod(0o755)


def batch(tmp_path: Path, nodes: int, **variables: str) -> str:
    """What the batch script starts in a job of so many nodes, by commands that only say how they were called."""
    tools, home = tmp_path / "bin", tmp_path / "home"
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / "launch").mkdir()
    tools.mkdir()
    put(tools, "scontrol", 'printf "%s\\n" node7 node8')
    put(tools, "srun", SRUN)
    put(home / ".venv" / "bin", "morlaif", 'echo "morlaif $*"')
    put(home / "launch", "multinode.sh", 'mkdir -p "$3"; echo "multinode $*"')
    environment = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(home), "SLURM_JOB_ID": "12",
        "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "6", **variables,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "slurm.sbatch"), "experiment=smoke", "name=two words"], env=environment,
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_job_of_one_node_is_the_run_itself(tmp_path):
    assert batch(tmp_path, 1).split("\n")[0] == "morlaif experiment=smoke name=two words"


def test_a_job_of_two_nodes_starts_each_with_its_number_and_the_first_ones_address(tmp_path):
    shared = tmp_path / "home" / "runs" / ".rendezvous-12-0"
    assert batch(tmp_path, 2).splitlines() == [
        f"multinode {node} node7 {shared} experiment=smoke name=two words" for node in (0, 1)
    ]
    assert "--cpus-per-task=6" in (tmp_path / "home" / "srun").read_text().split()
    assert not shared.exists()


def test_a_job_that_slurm_starts_anew_meets_in_a_folder_of_its_own(tmp_path):
    assert ".rendezvous-12-1 " in batch(tmp_path, 2, SLURM_RESTART_COUNT="1")


def test_a_job_submitted_from_elsewhere_says_where_from(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "slurm.sbatch")], env={**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"launch/slurm.sbatch: no .venv/bin/morlaif in {tmp_path}; submit from")


def test_several_nodes_without_the_script_are_told_to_use_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "morlaif", "experiment=smoke", "stages=[sft]", "data.sft=40", "hardware=cpu2_zero3",
         "hardware.nodes=2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "start the run on each node by launch/multinode.sh" in done.stdout


@pytest.mark.timeout(180)
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_of_a_sweep_run_side_by_side_under_a_launcher(launcher, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    limit = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else ["hydra.launcher.timeout_min=3"]
    done = subprocess.run(
        [sys.executable, "-m", "morlaif", "-m", "experiment=smoke", "seed=0,1", "stages=[data]", "data.sft=20",
         f"hydra/launcher={launcher}", *limit],
        cwd=tmp_path, capture_output=True, text=True, timeout=150, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("store/data/*/manifest.json"))) == 2
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json")]
    assert [record["status"] for record in records] == ["succeeded", "succeeded"]
