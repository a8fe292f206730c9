"""The typed config: what Hydra composes, every room's settings in one tree. Defaults live in `conf/`, not here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationError

from morlaif.data.settings import DataSettings
from morlaif.errors import UserError, suggest
from morlaif.evaluation.human.settings import HumanStudySettings
from morlaif.evaluation.settings import EvalSettings
from morlaif.feedback.settings import FeedbackSettings, PrinciplesSettings
from morlaif.launch.settings import HardwareSettings
from morlaif.models.settings import ModelSettings, RespondSettings, SFTSettings
from morlaif.preference.settings import PMSettings
from morlaif.report.comparison.settings import CompareSettings
from morlaif.reward.settings import RewardSettings
from morlaif.rl.settings import PPOSettings
from morlaif.scalarize.settings import ScalarizerSettings, WeightsSettings
from morlaif.settings import DISTINCT, Folder, Seed, Settings
from morlaif.tracking.settings import TrackingSettings

STAGES = ("data", "sft", "respond", "feedback", "backbone", "pm", "weigh", "ppo", "evaluate", "report")
COMPARE = "compare"  # reads finished runs and stands alone: no part of a run, nor of `all`

Stage = Literal["data", "sft", "respond", "feedback", "backbone", "pm", "weigh", "ppo", "evaluate", "report", "compare"]
Arm = Literal["multi", "single"]


def _stages(value: Any) -> Any:
    if value == "all":
        return STAGES
    if value is None or value == "" or value == [] or value == ():
        raise ValueError(f"names no stage. Give all, or a list of {', '.join(STAGES)}; or compare alone")
    for name in value if isinstance(value, list | tuple) else [value]:
        if name not in (*STAGES, COMPARE):
            hint = suggest(str(name), (*STAGES, COMPARE))
            raise ValueError(f"no stage '{name}'.{hint} Give all, or a list of {', '.join(STAGES)}; or compare alone")
    value = tuple(value) if isinstance(value, list | tuple) else (value,)
    if COMPARE in value and len(value) > 1:
        raise ValueError("compare reads finished runs and stands alone: stages=[compare] compare.runs='runs/*'")
    return value


def _arms(value: Any) -> Any:
    if not value or not isinstance(value, list | tuple | str):
        raise ValueError("names no arm. Give a list of multi and single, or of one of them")
    return (value,) if isinstance(value, str) else value


def _run_name(value: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", value):
        raise ValueError("should be letters, digits and the signs _ . -, and begin with a letter or a digit")
    if len(value.encode()) > 100:
        raise ValueError(f"is longer than 100 bytes ({len(value.encode())}); it names the run's folder")
    return value


class Paths(Settings):
    store: Folder  # finished units, shared by all runs
    runs: Folder  # one folder a run


class Config(Settings):
    name: Annotated[str, AfterValidator(_run_name)]
    seed: Seed
    stages: Annotated[tuple[Stage, ...], BeforeValidator(_stages), DISTINCT]  # "all" in YAML: every stage
    arms: Annotated[tuple[Arm, ...], BeforeValidator(_arms), DISTINCT]
    dry_run: bool
    paths: Paths
    model: ModelSettings
    data: DataSettings
    sft: SFTSettings
    respond: RespondSettings
    principles: PrinciplesSettings
    feedback: FeedbackSettings
    pm: PMSettings
    reward: RewardSettings
    scalarizer: ScalarizerSettings
    weights: WeightsSettings
    ppo: PPOSettings
    hardware: HardwareSettings
    eval: EvalSettings
    tracking: TrackingSettings
    compare: CompareSettings
    human: HumanStudySettings


def validate(tree: Mapping[str, Any]) -> Config:
    """The typed config of a composed tree.

    Raises:
        UserError: one line for each wrong key, with its dotted path and what would be right.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(dict.fromkeys(_line(item, tree) for item in error.errors()))) from None


def _line(item: Mapping[str, Any], tree: Mapping[str, Any]) -> str:
    keys = _keys_in(tree, item["loc"])
    dotted = ".".join(str(key) for key in keys)
    if item["type"] == "extra_forbidden":
        kind = [part for part in item["loc"][:-1] if part not in keys]  # the member of a union, such as sft.method
        if kind and dotted.count(".") == 1:
            group, _, name = dotted.partition(".")
            own = [key for key in known_keys(tree, without=dotted) if key.startswith(f"{group}.")]
            hint = suggest(dotted, own, 0.8) or f" If a preset sets it, '~{dotted}' takes it out."
            return f"unknown key '{dotted}': {group} '{kind[-1]}' has no '{name}'.{hint}"
        return f"unknown key '{dotted}'.{suggest_key(dotted, known_keys(tree, without=dotted))}"
    if item["type"] == "missing":
        return f"{dotted}: missing; this key must be given (null where it is meant to be empty)."
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    given = "" if item["type"] == "value_error" and isinstance(item["input"], Mapping) else f"={item['input']!r}"
    return f"{dotted}{given}: {message}."


def _keys_in(tree: Any, loc: tuple[int | str, ...]) -> list[int | str]:
    """The parts of pydantic's location that are keys of the tree: it also names the member of a union."""
    keys: list[int | str] = []
    for position, key in enumerate(loc):
        last = position == len(loc) - 1
        if (isinstance(tree, Mapping) and key in tree) or (
            isinstance(tree, list | tuple) and isinstance(key, int) and key < len(tree)
        ):
            tree = tree[key]
        elif not last or not isinstance(tree, Mapping):
            continue
        keys.append(key)
    return keys


def known_keys(tree: Mapping[str, Any], prefix: str = "", without: str = "") -> list[str]:
    """Every dotted key of a tree."""
    keys: list[str] = []
    for name, value in tree.items():
        dotted = f"{prefix}{name}"
        if dotted != without:
            keys.append(dotted)
            if isinstance(value, Mapping):
                keys += known_keys(value, dotted + ".", without)
    return keys


def suggest_key(wrong: str, right: list[str]) -> str:
    """The near key: first among those with the same parent, then one of the same name elsewhere, then any near one."""
    parent, _, name = wrong.rpartition(".")
    siblings = [key for key in right if key.rpartition(".")[0] == parent]
    namesakes = [key for key in right if key.rpartition(".")[2] == name]
    others = [key for key in right if not wrong.startswith(key + ".")]
    return (
        suggest(wrong, siblings)
        or suggest(wrong, namesakes, cutoff=0)
        or suggest(wrong, others)
        or " `morlaif --cfg job` prints every key."
    )
