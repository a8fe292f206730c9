"""What of the toy world goes with what: each mixture that would mean nothing is one line that names what to take."""

from __future__ import annotations

import pytest
import yaml
from composed import told

from morlaif.presets import options, places

LOCAL = "experiment=local model.path=m data.path=d.jsonl judge.path=j"


@pytest.mark.slow
@pytest.mark.parametrize(("command", "given", "instead"), [
    ("model=gpt2", "sft=toy respond=toy pm=toy ppo=toy data=toy feedback=rules eval=toy", "sft=auto respond=sample"),
    (f"{LOCAL} sft=toy", "sft=toy", "sft=auto"),
    (f"{LOCAL} pm=toy_heads ppo=toy_rloo", "pm=toy_heads ppo=toy_rloo", "pm=lora ppo=adapter"),
    (f"{LOCAL} feedback=rules", "feedback=rules", "feedback=hf"),
    (f"{LOCAL} eval=toy", "eval=toy", "eval=hf"),
    (f"{LOCAL} teacher=toy_weak arms.select=[teacher_tenth]", "teacher=toy_weak", "teacher=lora"),
    ("data=jsonl data.path=d.jsonl", "feedback=rules eval=toy", "feedback=human principles=human eval=gold_small"),
    ("sft=lora", "sft=lora", "sft=toy"),
    ("sft=none", "sft=none", "sft=toy"),
    ("budget=tiny", "budget=tiny", "experiment=smoke"),
    ("-m seed=0,1 sft=auto", "sft=auto", "sft=toy"),
])  # fmt: skip
def test_what_does_not_go_together_is_one_line(command, given, instead):
    line = told(command)
    assert line.count("\n") == 0 and line.startswith(f"{given}:") and instead in line.partition(":")[2]


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    LOCAL,
    f"{LOCAL} sft=none budget=paper",
    f"{LOCAL} judge=none feedback=human principles=human arms.select=[morlaif] respond=pairs eval=gold",
    "experiment=hh_cpu data.path=d.jsonl",
    "model=gpt2 stages=[data] data=jsonl data.path=d.jsonl",
    "model=gpt2 stages=[sft] data=jsonl data.path=d.jsonl sft=lora",
])  # fmt: skip
def test_what_goes_together_composes(command):
    assert told(command) == ""


EXPERIMENTS = {
    "quickstart": "",
    "quickstart_single": "",
    "direct_rlaif": "",
    "smoke": "",
    "salmon": "",
    "systems": "",
    "front": "",
    "hh_cpu": "data.path=d.jsonl",
    "local": "model.path=m data.path=d.jsonl judge.path=j",
    "llama2_70b": "",
}
GIVEN = {  # what a preset leaves to its user
    "model=hf": "model.path=m",
    "feedback=plugin": "feedback.source=morlaif_plugin.judge.Shorter",
    "data=plugin": "data.source=morlaif_plugin.tabs.rows",
    "pm=plugin": "pm.kind=morlaif_plugin.words.Words",
    "reward=plugin": "reward.kind=morlaif_plugin.reward.Plain",
    "reward=function": "reward.function=morlaif.reward.functions.length_near",
}
GROUPS = ("model", "data", "feedback", "sft", "respond", "pm", "ppo", "eval", "budget", "judge", "reward")


def distinct(group: str) -> list[str]:
    """The options of a group; of those that set the same keys, and so can fail for the same alone, the first."""
    found: dict[object, str] = {}
    for name in sorted(options()[group]):
        tree = written(group, name)
        same = name if group == "budget" else (keys(tree), str(tree.get("defaults")))  # budgets are read by name
        found.setdefault(same, name)
    return list(found.values())


def written(group: str, name: str) -> dict:
    (file,) = (file for place in places() if (file := place / group / f"{name}.yaml").is_file())
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def keys(tree: dict) -> frozenset[str]:
    return frozenset(
        f"{key}.{below}" for key, value in tree.items() for below in (keys(value) if isinstance(value, dict) else [""])
    )


def touched(experiment: str) -> list[str]:
    """The groups in which it sets keys: in its own file, or by its budget's."""
    tree = written("experiment", experiment)
    budgets = [entry["override /budget"] for entry in tree.get("defaults", []) if "override /budget" in entry]
    files = [file for name in budgets for place in places() for file in place.glob(f"*/_*/{name}.yaml")]
    return sorted((tree.keys() | {file.parents[1].name for file in files}) & options().keys())


def command(experiment: str, *chosen: str) -> str:
    given = [GIVEN[option] for option in chosen if option in GIVEN]
    return " ".join(["experiment=" + experiment, EXPERIMENTS[experiment], *chosen, *given])


def test_every_experiment_is_crossed():
    assert options()["experiment"] == set(EXPERIMENTS)


def is_the_users(line: str, experiment: str) -> bool:
    """Of a key that the command gives for its experiment, and an option has not: the line says which has it."""
    ours = [word.partition("=")[0] for word in EXPERIMENTS[experiment].split()]
    return any(line.startswith(f"unknown key '{key}'") for key in ours)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_pretrained_models_take_each_option_or_name_another(plugin, group):
    """What each option means in the toy world: `test_conf`."""
    for name in distinct(group):
        line = told(typed := command("local", f"{group}={name}"))
        if not is_the_users(line, "local"):
            assert "unknown key" not in line and " has no " not in line, f"{typed}: {line}"
            named = any(word in line.lower() for word in ("take ", "use ", "give "))
            assert line == "" or ("\n" not in line and named), f"{typed}: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS.keys() - {"local"}))
def test_no_option_fails_for_keys_that_an_experiment_sets(plugin, experiment):
    """Those are the business of the option they belong to. One command takes an option of each group at once."""
    choices = {group: distinct(group) for group in touched(experiment)}
    for row in range(max(map(len, choices.values()), default=0)):
        chosen = [f"{group}={names[row % len(names)]}" for group, names in choices.items()]
        lines = told(typed := command(experiment, *chosen)).splitlines()
        wrong = [line for line in lines if "unknown key" in line or " has no " in line]
        assert all(is_the_users(line, experiment) for line in wrong), f"{typed}: {wrong}"
