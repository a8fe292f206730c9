"""What of the toy world goes with what: each mixture that would mean nothing is one line that names what to take."""

from __future__ import annotations

import pytest
from composed import told

from morlaif.presets import options

LOCAL = "experiment=local model.path=m data.path=d.jsonl judge.path=j"


@pytest.mark.parametrize(("command", "given", "instead"), [
    ("model=gpt2", "sft=toy respond=toy pm=toy ppo=toy data=toy feedback=rules eval=toy", "sft=auto respond=sample"),
    (f"{LOCAL} sft=toy", "sft=toy", "sft=auto"),
    (f"{LOCAL} pm=toy_heads ppo=toy_rloo", "pm=toy_heads ppo=toy_rloo", "pm=lora ppo=adapter"),
    (f"{LOCAL} feedback=rules", "feedback=rules", "feedback=hf"),
    (f"{LOCAL} eval=toy", "eval=toy", "eval=hf"),
    ("data=jsonl data.path=d.jsonl", "feedback=rules eval=toy", "feedback=human principles=human eval=gold_small"),
    ("sft=lora", "sft=lora", "sft=toy"),
    ("sft=none", "sft=none", "sft=toy"),
    ("budget=tiny", "budget=tiny", "experiment=smoke"),
    ("-m seed=0,1 sft=auto", "sft=auto", "sft=toy"),
])  # fmt: skip
def test_what_does_not_go_together_is_one_line(command, given, instead):
    line = told(command)
    assert line.count("\n") == 0 and line.startswith(f"{given}:") and instead in line.partition(":")[2]


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
GROUPS = {group: sorted(names) for group, names in options().items() if "/" not in group}
CROSSED = [
    (experiment, group)
    for experiment in EXPERIMENTS
    for group in GROUPS
    if group not in ("experiment", "sweep")
]  # fmt: skip


def test_every_experiment_is_crossed():
    assert set(GROUPS["experiment"]) == set(EXPERIMENTS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("experiment", "group"), CROSSED)
def test_an_experiment_takes_each_option_or_names_another(plugin, experiment, group):
    """No option fails for keys that the experiment sets: those are the business of the option they belong to."""
    for name in GROUPS[group]:
        option = f"{group}={name}"
        command = " ".join(["experiment=" + experiment, EXPERIMENTS[experiment], option, GIVEN.get(option, "")])
        line = told(command)
        ours = [word.partition("=")[0] for word in EXPERIMENTS[experiment].split()]
        if any(line.startswith(f"unknown key '{key}'") for key in ours):
            continue  # the user's own key, which this option has not: the line says which has it
        assert "unknown key" not in line and " has no " not in line, f"{command}: {line}"
        named = any(word in line.lower() for word in ("take ", "use ", "give "))
        assert line == "" or ("\n" not in line and named), f"{command}: {line}"
