"""What starts runs on clusters, as far as it can be checked without one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli
import pytest

ROOT = Path(__file__).parents[2]
SRUN = """echo "$*" > "$SLURM_SUBMIT_DIR/srun"
while [[ $1 == --* ]]; do shift; done
for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done"""
MULTINODE = 'mkdir -p "$3"; echo "multinode $*"'
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


def batch_command(tmp_path: Path, srun: str = SRUN, scancel: str = "exit 1", multinode: str = MULTINODE) -> list[str]:
    """The batch script, with commands around it that only say how they were called."""
    tools, home = tmp_path / "bin", tmp_path / "home"
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / "launch").mkdir()
    tools.mkdir()
    # More than a pipe holds: a reader that leaves after the first line breaks it, as on a slow machine two lines do.
    put(tools, "scontrol", "seq -f node%g 7 30000")
    put(tools, "scancel", scancel)
    put(tools, "srun", srun)
    put(home / ".venv" / "bin", "morlaif", 'echo "morlaif $*"')
    put(home / "launch", "multinode.sh", multinode)
    return ["bash", str(ROOT / "launch" / "slurm.sbatch"), "experiment=smoke", "name=two words"]


def batch_environment(tmp_path: Path, nodes: int, **variables: str) -> dict[str, str]:
    """What Slurm 22.05 sets, of what the script reads."""
    return {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path / "home"),
        "SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_CPUS_PER_TASK": "6", **variables,
    }  # fmt: skip


def batch(tmp_path: Path, nodes: int, **variables: str) -> str:
    """What the batch script starts in a job of so many nodes."""
    done = subprocess.run(
        batch_command(tmp_path), env=batch_environment(tmp_path, nodes, **variables),
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(path: Path) -> None:
    ends = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < ends, f"no {path}"
        time.sleep(0.02)


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


def test_a_signal_before_the_time_limit_reaches_the_tasks_and_the_run_ends_in_order(tmp_path):
    # As Slurm does it: `--signal=B:TERM` reaches the script, `scancel --signal` each task; srun would kill them itself.
    run = f'trap "echo ended in order; exit 143" TERM; touch {tmp_path}/started; while true; do sleep 0.05; done'
    scancel = f'echo "scancel $*" >> {tmp_path}/calls; kill -TERM "$(< {tmp_path}/task)"'
    srun = f'while [[ $1 == --* ]]; do shift; done; echo $$ > {tmp_path}/task; SLURM_NODEID=0 exec "$@"'
    process = subprocess.Popen(
        batch_command(tmp_path, srun=srun, scancel=scancel, multinode=run), env=batch_environment(tmp_path, 2),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "started")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "ended in order\n"
    assert process.returncode == 143
    assert (tmp_path / "calls").read_text() == "scancel --signal=TERM 12\n"


def test_a_job_submitted_from_elsewhere_says_where_from(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "slurm.sbatch")], env={**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"launch/slurm.sbatch: no .venv/bin/morlaif in {tmp_path}; submit from")


@pytest.mark.slow
def test_several_nodes_without_the_script_are_reported_to_use_it(tmp_path):
    command = ["experiment=smoke", "stages=[sft]", "data.sft=40", "hardware=cpu2_zero3", "hardware.nodes=2"]
    done = cli.morlaif(command, tmp_path, {"COLUMNS": "200"})
    assert done.returncode == 2
    assert "start the run on each node by launch/multinode.sh" in done.stderr


@pytest.mark.slow
def test_jobs_for_slurm_are_refused_where_it_cannot_be_asked(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    command = ["-m", "experiment=smoke", "seed=0,1", "stages=[data]", "hydra/launcher=submitit_slurm"]
    done = cli.morlaif(command, tmp_path, {"PATH": str(tmp_path)})
    assert done.returncode == 2 and "there is no srun here" in done.stderr
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.slow
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
