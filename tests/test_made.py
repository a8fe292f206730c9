"""Models that a command has made first: which run makes them, and that what reads them follows."""

from __future__ import annotations

import json

import cli
import pytest
from composed import config

from morlaif.compose import compose_all, register
from morlaif.errors import UserError
from morlaif.made import made_models, with_folders
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.units.store import Store
from morlaif.usage import read_flags

SMALL = ["experiment=smoke", "model=toy_small", "stages=[sft]"]


def of(*words: str):
    register()
    return made_models(read_flags(words))


@pytest.mark.slow
def test_it_is_the_sft_model_of_the_command_with_another_model():
    given = ["sweep=pm_size", "experiment=smoke", "sft.max_steps=7", "model.name=x", "-m", "arms.seed=0,1", "pm=toy"]
    (made,) = of(*given, "pm.base=null,made:toy_small,made:toy_small")
    alone = config(*SMALL, "sft.max_steps=7")
    unit = plan(alone, Contents(alone.paths.store)).by_name["sft"]
    assert made.job.config == alone and made.folder == Store(alone.paths.store).folder(unit) and not made.is_there
    words = with_folders([*given, "pm.base=null,made:toy_small", "extra=made:toy_small"], [made])
    assert words == [*given, f"pm.base=null,'{made.folder / 'model'}'", "extra=made:toy_small"]


def test_a_command_without_has_none():
    assert of("experiment=smoke", "pm.base=null", "name=made:toy_small") == []


@pytest.mark.slow
@pytest.mark.parametrize(("words", "line"), [
    (["pm.base=made:gpt2", "experiment=smoke"], "pm.base=made:gpt2: sft=toy data=toy: made for the toy model"),
    (["pm.base=made:gemma3_270m", "experiment=local", "model.path=m", "judge.path=j", f"data.path={__file__}",
      "sft=none"],
     "pm.base=made:gemma3_270m: sft=none makes no model; name its folder or hub id"),
])  # fmt: skip
def test_what_cannot_be_made_is_one_line(words, line):
    with pytest.raises(UserError) as error:
        of(*words)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.slow
def test_what_is_wrong_with_its_readers_is_found_before_it_is_made(tmp_path):
    words = ["experiment=smoke", "pm.base=made:toy_small", "judge.path=http://localhost:1/v1", "feedback=openai"]
    done = cli.morlaif(words, tmp_path, {"OPENAI_API_KEY": ""})
    assert done.returncode == 2 and "OPENAI_API_KEY" in done.stderr and not [*tmp_path.glob("store/sft/*")]


@pytest.mark.slow
def test_a_sweep_makes_its_small_base_and_reads_it(tmp_path):
    small = ["data.sft=40", "data.train=16", "sft.max_steps=2", "pm.epochs=1", "principles.count=1", "sft.log_every=1"]
    words = ["sweep=pm_size", "experiment=smoke", "stages=[pm]", "pm.base=null,made:toy_small", *small]
    planned = cli.morlaif([*words, "dry_run=true"], tmp_path)
    assert "2 runs that read this model are planned once it is made" in planned.stdout and not [*tmp_path.iterdir()]
    done = cli.morlaif(words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = [json.loads(file.read_text()) for file in tmp_path.glob("store/pm/*/manifest.json")]
    of_policy, of_other = sorted(manifests, key=lambda one: "sft" not in one["needs"])
    assert "pm.base" in of_other["reads"]["contents"] and "sft" not in of_other["needs"]
    assert "contents" not in of_policy["reads"] and len([*tmp_path.glob("store/sft/*/manifest.json")]) == 2
    assert "are planned once" not in cli.morlaif([*words, "dry_run=true"], tmp_path).stdout


@pytest.mark.slow
def test_jobs_differ_by_their_base():
    register()
    words = ["sweep=pm_size", "experiment=smoke", "pm.base=null,made:toy_small"]
    flags = read_flags(words)
    made = made_models(flags)
    flags.overrides = with_folders(flags.overrides, made)
    jobs, multirun, preset = compose_all(flags)
    assert (multirun, preset) == (True, "pm_size")
    assert [job.config.pm.base for job in jobs] == [None, str(made[0].folder / "model")]
    assert json.loads(jobs[0].config.model_dump_json())["pm"]["base"] is None
