"""Presets of the toy world beside models and data that are none of it: what would run, and mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from morlaif.config import Config
from morlaif.data.settings import ToyData
from morlaif.evaluation.settings import RulesJudge
from morlaif.feedback.settings import RulesSettings
from morlaif.models.settings import FullSFT
from morlaif.stages.known import METHODS
from morlaif.stages.ppo import STAGE as PPO

# What sizes a stage for the toy model, by group: its stage, and what to take for a pretrained model instead.
SIZES = {
    "sft": "auto", "respond": "sample", "pm": "lora", "ppo": "adapter", "dpo": "lora", "best_of_n": "default",
    "rejection": "lora", "teacher": "lora", "online_dpo": "lora",
}  # fmt: skip
# The world itself and its judges.
WORLD = {
    "data": "file data.path=<file>",
    "feedback": "hf feedback.path=<judge>",
    "eval": "hf eval.judge.engine.path=<judge>",
}
STAGE_OF = {"eval": "evaluate"}


def strangers(config: Config, choices: Mapping[str, str | None]) -> Iterator[str]:
    """A line for each thing that does not go together, with the presets to take instead.

    Args:
        choices: the option of each group, as it was composed.
    """
    stages, own = config.reached, isinstance(config.data, ToyData)
    methods = {name for arm in config.arms.chosen.values() for name in (arm.method, arm.start)} | {PPO.name}
    used = [
        group
        for group in (*SIZES, *WORLD)
        if STAGE_OF.get(group, group) in stages and (group not in METHODS.known or group in methods)
    ]
    toys = [group for group in used if group in SIZES and _is_toy(choices.get(group))]
    judges = [group for group in used if _judged_by_rules(config, group)]
    if config.model.scratch is None:
        wrong = [*toys, *(["data"] if own and "data" in used else []), *judges]
        if wrong:
            given, instead = _words(wrong, choices), _instead(wrong)
            yield (
                f"{given}: made for the toy model, and model {config.model.name} is pretrained. Take {instead}; or "
                "experiment=local, which takes all that suits it"
            )
        return
    if judges and not own:
        yield (
            f"{_words(judges, choices)}: the toy world's judge knows its own sentences alone, and "
            f"data={choices.get('data')} holds others. Take {_instead(judges)}, or labels by people: feedback=human "
            "principles=human eval=gold_small"
        )
    if "sft" in used and not isinstance(config.sft, FullSFT):
        yield (
            f"sft={choices.get('sft')}: for a pretrained model, and model={choices.get('model')} is made from nothing. "
            "Take sft=toy, or model=hf model.path=<folder or hub id>"
        )
    if (budget := choices.get("budget")) in ("small", "tiny") and toys:
        yield (
            f"budget={budget}: sizes what pretrained models take, and {_words(toys, choices)} has sizes of its own. "
            "Leave it out, or take experiment=smoke"
        )


def _is_toy(option: str | None) -> bool:
    return option is not None and (option == "toy" or option.startswith("toy_"))


def _judged_by_rules(config: Config, group: str) -> bool:
    if group == "eval":
        return isinstance(config.eval.judge, RulesJudge)
    labelled = any(arm.labels in ("principles", "constitution", "mixed") for arm in config.arms.chosen.values())
    return group == "feedback" and labelled and isinstance(config.feedback, RulesSettings)


def _words(groups: list[str], choices: Mapping[str, str | None]) -> str:
    return " ".join(f"{group}={choices.get(group)}" for group in groups)


def _instead(groups: list[str]) -> str:
    options = SIZES | WORLD
    return " ".join(f"{group}={options[group]}" for group in groups)
