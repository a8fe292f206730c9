"""A mistake in a command line is one line that says what is wrong, where, and what would be right."""

from __future__ import annotations

import pytest
from composed import composed, told
from hydra.errors import HydraException

from morlaif.compose import plain, repeated
from morlaif.config import Config, validate
from morlaif.errors import UserError
from morlaif.keys import known_keys, unknown_key
from morlaif.mistakes import explain, unreadable
from morlaif.presets import options
from morlaif.usage import usage

QUICK = ["data.sft=8", "data.train=4", "data.eval=4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "line"),
    [
        # a key of a union's member
        ("pm.epochs=0", "pm.epochs=0: should be greater than or equal to 1."),
        ("+pm.max_lenght=3", "unknown key 'pm.max_lenght'. Did you mean 'pm.max_length'?"),
        ("++pm.epochz=3", "unknown key 'pm.epochz'. Did you mean 'pm.epochs'?"),
        ("pm.lora.ranks=3", "unknown key 'pm.lora.ranks'."),
        ("ppo.optimzer.learning_rate=1", "Did you mean 'ppo.optimizer.learning_rate'?"),
        ("pm.kind=full", "pm.kind=full: has no joint, joint_tokens or lora. Give pm=<option>"),
        ("pm.kind=nothing", "pm.kind='nothing': should be lora, trunk"),
        ("feedback.source=server", "feedback.source='server': should be rules, openai, hf, human or jsonl."),
        ("~pm.kind", "pm.kind: should be lora, trunk"),
        ("data.path=x", "unknown key 'data.path': data 'toy' has no 'path'; data.source jsonl or hub has it."),
        ("+feedback.model=x", "feedback 'rules' has no 'model'; feedback.source openai has it."),
        ("hydra.run.dir=", "hydra.run.dir names no folder; leave it out, and name the place by paths.runs"),
        # something below a value
        ("pm.base.x=1", "unknown key 'pm.base.x': 'pm.base' is null, which has no keys."),
        ("+pm.base.x=1", "pm.base={'x': 1}: should be a text."),
        ("'pm.base={a: 1}'", "pm.base={'a': 1}: should be a text."),
        ("ppo.steps.x=3", "unknown key 'ppo.steps.x': 'ppo.steps' is 18, which has no keys."),
        ("feedback=server feedback.extra_body.seed=1", "'+feedback.extra_body.seed=…' adds it to feedback.extra_body."),
        # ~
        ("~pm.epochs", "pm.epochs: missing; this key must be given."),
        ("~pm.epochz", "'~pm.epochz': unknown key 'pm.epochz'. Did you mean 'pm.epochs'?"),
        ("~pm", "pm: missing; a run needs this group: pm=<option>."),
        ("~ppo", "ppo: missing; a run needs this group: ppo=<option>."),
        # groups
        ("pmm=lora", "unknown key 'pmm'. Did you mean 'pm'?"),
        ("+pm=lora", "'+pm=lora': the group is there already; write pm=<option>."),
        ("pm=null", "'pm=null': give one of the group's options. It offers conditioned"),
        ("pm=[lora,full]", "'pm=[lora,full]': give one option, or several runs: -m pm=a,b."),
        ("ppo=5", "'ppo=5': give one of the group's options. It offers adapter, dr_grpo, gdpo"),
        ("experiment=smok", "Did you mean 'smoke'?"),
        ("+experiment=smoke", "'+experiment': the group is there already; write it without the plus."),
        ("sweep=seed", "Did you mean 'seeds'?"),
        # words
        ("'principles.select=[helpfulness'", "the [ is not closed"),
        ("weights.values={a: 1}", "ends at a space; put the whole in quotes: 'weights.values={a: 1}'"),
        ("ppo.steps", "'ppo.steps' has no value; give key=value."),
        ("dry_run", "For instance dry_run=true"),
        ("help", "Did you mean '--help'?"),
        ("'ppo.steps: 3'", "write key=value: ppo.steps=3"),
        ("'ppo.steps = 3'", "write it without spaces: ppo.steps=3"),
        ("ppo.steps= 3", "write it without a space: ppo.steps=3"),
        ("ppo.steps =3", "write it without a space: ppo.steps=3"),
        ("ppo.steps = 3", "write it without a space: ppo.steps=3"),
        ("'ppo.stop[0]=x'", "a list is given whole: ppo.stop=[a, b]"),
        ("\"name='a\"", "the quote ' is not closed"),
        ("=3", "'=3': there is no key before the equals sign"),
        ("arms.definitions.morlaf.method=ppo", "Did you mean 'morlaif'? An arm of your own needs labels: principles, "),
        ("arms.definitions.mine.labels=ai arms.definitions.mine.method=ppo", "arms.definitions.mine.labels='ai'"),
        ("''", "an empty word is among the overrides"),
        ("ppo..steps=3", "'ppo..steps' is no key"),
        # interpolation
        ("'name=${nothing.here}'", "name: there is no key 'nothing.here' to take its value from."),
        ("'seed=${ppo.stepz}'", "seed: there is no key 'ppo.stepz' to take its value from. Did you mean 'ppo.steps'?"),
        ("'seed=${seed}'", "seed: it takes its value from itself."),
        ("'seed=${oc.env:NOT_THERE}'", "seed: the environment has no variable NOT_THERE"),
        ("'seed=${foo:1}'", "seed: 'foo' resolves nothing here"),
        ("'seed=???'", "seed: ??? means a value that is still to be given"),
        ("'model.path=???' model=gpt2", "model.path: ??? means a value"),
        # Hydra's own
        ("hydra.foo=1", "unknown key 'hydra.foo'. `morlaif --cfg hydra` prints Hydra's own keys."),
        ("hydra.mode=RUNN", "hydra.mode=RUNN: Invalid value 'RUNN', expected one of [RUN, MULTIRUN]"),
        # sweeps
        ("-m 'seed=range(0,0)'", "'seed=range(0,0)' names no value"),
        ("-m 'seed=choice()'", "'seed=choice()': empty choice is not legal"),
        ("-m 'scalarizer=glob(zzz*)'", "names no value"),
        ("-m 'seed=range(0,1000000)'", "the sweep means more than 1000 runs"),
        ("-m 'seed=range(0,100)' 'ppo.steps=range(1,100)'", "the sweep means more than 1000 runs"),
        ("-m seed=1,1", "'seed=1,1' names 1 twice"),
        ("-m hardware.threads=1,2", "are the same run"),
        ("-m 'seed=interval(0,1)'", "give the values one by one"),
        ("-m seed=1,", "ends with a comma"),
        ("seed=1,2", "gives several values: add -m"),
        # numbers and nesting past what Python reads
        (f"seed={'1' * 5000}", "the config cannot be composed: Exceeds the limit"),
        (f"seed={'[' * 2000}{']' * 2000}", "an override is nested too deeply to be read"),
        # flags
        ("--dry_run", "unknown flag '--dry_run': keys are written without dashes: dry_run=true"),
        ("--ppo.steps=3", "keys are written without dashes: ppo.steps=3"),
        ("--multirn", "unknown flag '--multirn'. Did you mean --multirun?"),
        ("--cfg", "--cfg needs a value, such as --cfg job"),
        ("--cfg jobb", "--cfg jobb: it offers job, hydra, all. Did you mean 'job'?"),
        ("--config-name x", "--config-name is not offered"),
        ("--experimental-rerun=x", "--experimental-rerun is not offered"),
        ("--config-dir nowhere/at/all", "--config-dir nowhere/at/all: there is no such folder"),
        ("--resolve", "--resolve belongs to --cfg job"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_what_would_be_right(command, line):
    said = told(command)
    assert line in said and len(said.splitlines()) == 1, said
    assert "hydra.cc" not in said and "object_type" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "-m 'seed=range(0,2)'", "'pm={kind: lora}'", "seed=1e3", "'seed=\"3\"'", "~experiment",
        "arms.definitions.my.labels=principles arms.definitions.my.change='{ppo.kl.coef: 1}' arms.select=[morlaif,my]",
        "eval.policies.base=gpt2 +eval.policies.other=gpt2",
        "reward=mixture +reward@reward.parts.judge=judge +reward.weights.judge=0.5",
    ],
)  # fmt: skip
def test_what_can_be_meant_is_taken(command):
    assert told(command) == ""


def test_a_key_given_twice_is_reported_and_the_last_counts():
    assert repeated(["seed=1", "pm=lora", "seed=2"]) == ["seed is given twice, 'seed=1' and 'seed=2': the last counts"]
    assert repeated(["seed=1", "seed=1", "+a.b=1", "~a.c", "pm=lora"]) == []


@pytest.mark.slow
def test_every_key_of_the_config_is_near_itself_with_a_letter_changed():
    """The nearest key of a typo is the key, or one beside it: never one in another corner of the config."""
    tree = plain(composed())
    for key in known_keys(tree):
        above, _, name = key.rpartition(".")
        if ".change." in key:  # of an arm: keys of other groups, none of which lies there
            continue
        if len(name) < 6 or above in ("principles.definitions", "principles.ratings", "weights.values"):
            continue
        wrong = [*filter(None, above.split(".")), f"{name[:-2]}{name[-1]}{name[-2]}x"]
        said = unknown_key(wrong, tree, Config)
        assert f"Did you mean '{above + '.' if above else ''}" in said, (key, said)


@pytest.mark.parametrize(("option", "extra"), [("joblib", "joblib"), ("submitit_slurm", "slurm")])
def test_a_launcher_whose_package_is_missing(option, extra):
    said = f"In 'config': Could not find 'hydra/launcher/{option}'\n\nAvailable options in 'hydra/launcher':\n\tbasic"
    line = explain(HydraException(said), [])
    assert line == f"hydra/launcher={option}: its package is not installed; pip install 'morlaif[{extra}]'"


def test_the_help_lists_every_group_without_composing_anything():
    page = usage(None)
    for group, names in options(None).items():
        assert f"{group}: {', '.join(sorted(names))}" in page
    assert "{" not in page.replace("weights={detail: 2, conciseness: 0}", "").replace("{a", "")


def test_a_folder_of_presets_is_listed_beside_ours(tmp_path):
    (tmp_path / "pm").mkdir()
    (tmp_path / "pm" / "mine.yaml").write_text("kind: lora\n")
    assert "mine" in options(str(tmp_path))["pm"] and "mine" not in options(None)["pm"]


@pytest.mark.slow
def test_a_preset_of_ones_own_that_is_no_yaml_is_one_line(tmp_path):
    (tmp_path / "pm").mkdir()
    (tmp_path / "pm" / "mine.yaml").write_text("kind: [lora\n")
    said = told(f"--config-dir {tmp_path} pm=mine")
    assert said.startswith("the config cannot be composed:") and len(said.splitlines()) == 1


@pytest.mark.parametrize("wrong", ["seed=3=", "name=\x1b[31m", "name=\udcff", "a b=3", "@=1"])
def test_any_word_gets_an_answer(wrong):
    assert unreadable(wrong, [wrong], "").startswith(f"'{wrong}'")


def test_several_mistakes_of_one_config_are_reported_together():
    tree = plain(composed())
    tree["seed"], tree["ppo"]["steps"], tree["typo"] = -1, "x", 1
    with pytest.raises(UserError) as error:
        validate(tree)
    lines = str(error.value).splitlines()
    assert [line.split("=")[0] for line in lines[:2]] == ["seed", "ppo.steps"] and "unknown key 'typo'" in lines[2]
