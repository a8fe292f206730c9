"""From `sweep=claims` to its runs: each once, with the seeds that vary, and what cannot be tested left out."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from morlaif.claim_runs import claimed, compose_runs, makers
from morlaif.compose import compose_all, plain, run_name
from morlaif.errors import MachineError, UserError
from morlaif.side_by_side import run_side_by_side
from morlaif.usage import read_flags, with_claims


def claims_of(*words: str):
    flags = read_flags(with_claims([*words, "claims.seeds=2"]))
    (base,), *_ = compose_all(flags)
    return claimed(flags, base)


@pytest.mark.slow
def test_runs_that_claims_share_are_one():
    made = claims_of("claim=morlaif_beats_single,principles_are_easier,both_orders_help", "ppo.steps=3")
    compose_runs(made, {}, None)
    assert len(made.known) == 3 and len(made.runs) == 2 * 5 and len(made.jobs) == 2 * 3
    job = made.jobs[made.runs[next(cell for cell in made.runs if cell.arm == "single" and cell.seed == 1)]]
    config = job.config
    assert config.arms.select == ("rlaif",) and config.stages == ("evaluate",)
    assert config.ppo.steps == 3, "the command's word is stronger than the sweep's size"
    assert config.ppo.rollouts == 40, "the sweep's size of the toy world"
    assert config.pm.seed == config.arms.seed == 1 and config.data.seed is None
    assert run_name(job.tree) == job.run_name and job.tree.hydra.overrides.task == job.overrides


@pytest.mark.slow
def test_what_has_no_place_in_a_world_is_left_out_or_refused():
    made = claims_of("sweep=claims", "claims.vary=[pm.sed]")
    made.known = [one for one in made.known if one.name in ("thought_helps", "flattery_is_rewarded")]
    compose_runs(made, {}, None)
    assert "feedback.mode" in made.untested["thought_helps"]
    assert "claims.vary: there is no key 'pm.sed'" in made.untested["flattery_is_rewarded"]
    with pytest.raises(UserError, match=r"claim thought_helps: unknown key 'feedback\.mode'"):
        compose_runs(claims_of("claim=thought_helps"), {}, None)


def test_a_claim_on_the_command_line_means_the_sweep():
    assert with_claims(["claim=a,b", "seed=1"]) == ["claims.select=[a,b]", "seed=1", "sweep=claims"]
    assert with_claims(["sweep=claims", "claim=[a]"]) == ["sweep=claims", "claims.select=[a]"]
    assert with_claims(["claim=all"]) == ["claims.select=all", "sweep=claims"] and with_claims(["a=1"]) == ["a=1"]


@pytest.mark.slow
def test_a_model_that_is_of_another_world_is_the_users_to_give():
    made = claims_of("claim=small_pms_align_larger", "claims.models.small=/some/model")
    assert makers(made, None) == {}
    compose_runs(made, made.settings.models, None)
    assert {job.config.pm.base for job in made.jobs.values()} == {"/some/model"}
    own = ("experiment=local", "model.path=/m", "judge.path=/j", "data.path=d.jsonl")
    with pytest.raises(UserError, match=r"claim small_pms_align_larger: needs claims\.models\.small=<folder or hub"):
        makers(claims_of("claim=small_pms_align_larger", *own), None)


@pytest.mark.slow
def test_jobs_run_side_by_side_and_processes_that_die_are_an_error(tmp_path):
    made = claims_of("claim=both_orders_help", f"paths.runs={tmp_path}")
    compose_runs(made, {}, None)
    jobs, console = list(made.jobs.values()), Console(file=io.StringIO(), width=200)
    run_side_by_side(jobs, 2, None, plain, tmp_path / "logs", console, ["one", "two"])
    assert "2 of 2 jobs done" in console.file.getvalue()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["0.log", "1.log"]
    assert all((tmp_path / job.run_name).is_dir() for job in jobs)
    with pytest.raises(MachineError, match="ended before 2 of its jobs"):
        run_side_by_side(jobs, 1, None, sys.exit, tmp_path / "logs", console, ["one", "two"])
