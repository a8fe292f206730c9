"""The command line as a user meets it: in a process of its own, in an empty folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import cli
import pytest

from morlaif.compose import compose_all
from morlaif.planning.plan import plan
from morlaif.usage import read_flags

ROOT = Path(__file__).parents[1]


def morlaif(*arguments: str, cwd, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return cli.morlaif(arguments, cwd, env)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ppo.stepz=3"], "unknown key 'ppo.stepz'. Did you mean 'ppo.steps'?"),
        (["ppo.steps=many"], "ppo.steps='many': should be a valid integer"),
        (["ppo.steps=0"], "ppo.steps=0: should be greater than or equal to 1"),
        (["scalarizer=max_mini"], "no such option in group 'scalarizer'. Did you mean 'max_min'?"),
        (["experiment=quikstart"], "no such option in group 'experiment'. Did you mean 'quickstart'?"),
        (["scalarizerr=linear"], "unknown key 'scalarizerr'. Did you mean 'scalarizer'?"),
        (["+typo=1"], "unknown key 'typo'. `morlaif --cfg job` prints every key."),
        (["+ppo.stepz=1"], "unknown key 'ppo.stepz'. Did you mean 'ppo.steps'?"),
        (
            ["scalarizer=soft_max_min", "scalarizer.params.temprature=2"],
            "Did you mean 'scalarizer.params.temperature'?",
        ),
        (["scalarizer=soft_max_min", "scalarizer.params.temperature=warm"], "temperature"),
        (["scalarizer=linear", "+scalarizer.params.temperature=2"], "temperature"),
        (["principles.select=[helpfullness]"], "no principle 'helpfullness'. Did you mean 'helpfulness'?"),
        (["stages=[pmm]"], "no stage 'pmm'. Did you mean 'pm'?"),
        (["arms.select=[morlaif,morlaif]"], "names 'morlaif' twice"),
        (["scalarizer=linear,max_min"], "gives several values: add -m"),
        (["experiment=hh_cpu", "data.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["weights.normalizer=group"], "ppo.samples_per_prompt=1: sample 2 or more"),
        (
            ["weights.normalizer=group", "ppo.advantage=grpo", "ppo.samples_per_prompt=4", "ppo.critic.kind=none"],
            "divide by the group's deviation twice: use ppo.advantage=gdpo",
        ),
        (["weights.normalizer=runing"], "weights.normalizer='runing'"),
        (["scalarizer=lagrangian", "scalarizer.params.thresholds=[0.1,0.2]"], "2 numbers for 1 constraints"),
        (["scalarizer=lagrangian", "weights.zero=[toxicity]"], "names 'toxicity', which is not among the principles"),
        (["scalarizer=single", "scalarizer.params.principle=detial"], "Did you mean 'detail'?"),
        (["weights=given", "weights.values={detail: 0.0}", "principles.select=[detail]"], "has weight zero"),
        (["weights=equal", "weights.method=given", "weights.values={detail: 1.0}"], "no weight for 'helpfulness'"),
        (["seed"], "seed"),
        (["experiment=null"], "experiment=null: give one of the group's options, or leave it out: ~experiment."),
    ],
)
def test_a_mistake_costs_one_line_and_exit_2(arguments, line, tmp_path):
    done = morlaif(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("morlaif: ")
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("experiment=quikstart", "Did you mean 'quickstart'?"),  # found by Hydra, by validation, and by the plan
        ("ppo.steps=0", "ppo.steps=0: should be greater than or equal to 1"),
        ("principles.select=[helpfullness]", "Did you mean 'helpfulness'?"),
    ],
)
def test_a_plan_finds_it_too(mistake, line, tmp_path):
    done = morlaif(mistake, "dry_run=true", cwd=tmp_path)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_every_mistake_of_a_config_is_reported_at_once(tmp_path):
    done = morlaif("ppo.steps=x", "seed=-1", "+typo=1", cwd=tmp_path)
    assert done.returncode == 2
    assert [line.split(":")[1].split("=")[0].strip() for line in done.stderr.splitlines()] == [
        "seed",
        "ppo.steps",
        "unknown key 'typo'. `morlaif --cfg job` prints every key.",
    ]


@pytest.mark.slow
def test_a_sweep_is_checked_before_its_first_job(tmp_path):
    done = morlaif("-m", "ppo.steps=1,2,many", cwd=tmp_path)
    assert done.returncode == 2 and "ppo.steps='many'" in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_the_plan_names_every_unit_and_builds_nothing(tmp_path):
    done = morlaif("dry_run=true", cwd=tmp_path)
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines() if " to do " in line]
    assert [row[1] for row in rows if row[0] == "ppo"] == ["ppo/morlaif", "ppo/regressed", "ppo/rlaif"]
    assert sum(row[0] == "pm" for row in rows) == 13
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_preset_shows_the_plan_of_each_run(tmp_path):
    done = morlaif("sweep=seeds", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("quickstart-")]
    assert len(names) == len(set(names)) >= 3


# The runs of the first two come of their claims: `test_claim_runs`. The last one's bases are the user's.
OWN = {"claims", "rlaif_table", "pm_size"}
SWEEPS = sorted({file.stem for file in (ROOT / "sweeps" / "sweep").glob("*.yaml")} - OWN)


@pytest.mark.slow
@pytest.mark.parametrize("preset", SWEEPS)
def test_a_sweep_preset_means_several_runs(preset):
    jobs, several, name = compose_all(read_flags([f"sweep={preset}"]))
    assert several and name == preset and len({job.run_name for job in jobs}) >= 3
    assert all(plan(job.config).units for job in jobs)


@pytest.mark.slow
def test_a_sweep_over_bases_has_a_run_for_each():
    jobs, several, _ = compose_all(read_flags(["sweep=pm_size", "pm.base=null,small,large"]))
    assert several and [job.config.pm.base for job in jobs] == [None, "small", "large"]


def planned(cwd, *arguments: str) -> list[list[str]]:
    """Stage, name and digest of each unit of a plan."""
    lines = morlaif("dry_run=true", *arguments, cwd=cwd).stdout.splitlines()
    return [line.split()[:3] for line in lines if " to do " in line]


@pytest.mark.slow
def test_fewer_principles_are_a_subset_of_the_same_units(tmp_path):
    def models(*arguments: str) -> set[tuple[str, ...]]:
        return {(name, digest) for stage, name, digest in planned(tmp_path, *arguments) if stage in ("feedback", "pm")}

    assert models("principles.count=4") < models()


@pytest.mark.slow
def test_a_changed_scalarizer_changes_only_what_comes_after_it(tmp_path):
    def units(*arguments: str) -> dict[str, str]:
        return {name: digest for _, name, digest in planned(tmp_path, *arguments)}

    before, after = units(), units("scalarizer=max_min")
    assert {name for name in before if before[name] != after[name]} == {
        "ppo/morlaif", "ppo/regressed", "evaluate", "report",
    }  # fmt: skip


@pytest.mark.slow
def test_a_scalarizer_of_the_user_needs_no_edit_of_the_project(tmp_path):
    """By its dotted path, from a file beside the command; one that learns too; its mistakes cost one line."""
    (tmp_path / "my_rules.py").write_text(
        "from morlaif.scalarize.registry import stateful\n"
        "def softer(rewards, *, slope: float):\n"
        "    return (rewards * slope).tanh().sum(-1)\n"
        "def start(*, first: float):\n"
        "    return {'level': first}\n"
        "def update(rewards, *, state):\n"
        "    return {'level': rewards.mean().item()}\n"
        "@stateful(start=start, update=update)\n"
        "def above(rewards, *, state):\n"
        "    return (rewards - state['level']).amin(-1)\n"
    )

    def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
        return morlaif("dry_run=true", *arguments, cwd=tmp_path, env=path)

    soft = plan("scalarizer.name=softer", "scalarizer.function=my_rules.softer", "+scalarizer.params.slope=0.5")
    assert soft.returncode == 0, soft.stderr
    learning = plan("scalarizer.name=above", "scalarizer.function=my_rules.above", "+scalarizer.params.first=0.0")
    assert learning.returncode == 0, learning.stderr
    digest = {line.split()[2] for run in (soft, learning) for line in run.stdout.splitlines() if "ppo/morlaif" in line}
    assert len(digest) == 2
    for arguments, line in (
        (["scalarizer.function=my_rules.sofetr"], "has no 'sofetr'. Did you mean 'softer'?"),
        (["scalarizer.function=my_rules.softer"], "scalarizer.params.slope is missing"),
        (["scalarizer.function=my_rules.softer", "+scalarizer.params.slope=steep"], "got 'steep'"),
        (["scalarizer.function=my_rules.above"], "scalarizer.params.first is missing"),
        (["scalarizer.function=your_rules.above"], "no module 'your_rules'"),
    ):
        done = plan(*arguments)
        assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
