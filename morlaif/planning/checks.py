"""What is wrong with a config as a whole, and what a unit reads from outside it, before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from morlaif.config import Config
from morlaif.errors import UserError, suggest
from morlaif.evaluation.settings import EvalSettings, HfJudge, PluginJudge
from morlaif.naming import WHOLE
from morlaif.planning.contents import Contents
from morlaif.preference.kinds import kind_of
from morlaif.preference.settings import PMSettings, PretrainedPM
from morlaif.reward.settings import RewardLayout
from morlaif.scalarize.functions import linear
from morlaif.scalarize.registry import resolve

WHOLE_OF = {name: labels for labels, name in WHOLE.items()}


def existing_weights(pm: PMSettings, name: str, contents: Contents) -> str | None:
    """What tells the weights of a reward model that exists already from others that may come to lie in their place.

    Raises:
        UserError: no reward model is named for this principle.
    """
    kind = kind_of(pm)
    if kind.trains:
        return None
    source = kind.existing.get(name)
    if source is None:
        only = f" or leave out the arms of a {WHOLE_OF[name]}, as in arms.select=[morlaif]" if name in WHOLE_OF else ""
        raise UserError(f"pm.paths: no reward model for '{name}'; give 'pm.paths={{{name}: <folder or hub id>}}'{only}")
    known = contents.model(source.key, source.path, source.revision, source.trust_remote_code)
    output = pm.output_of(name) if isinstance(pm, PretrainedPM) else None
    return known if output is None else f"{known}, output {output}"


def read_outside(settings: EvalSettings, contents: Contents) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the evaluation reads from outside the run: the identity of each further policy, and the benchmark's file.

    Raises:
        UserError: one is not there, or or a row of the file or a judge of the user's is not as it should be: an error
            before hours of training.
    """
    if isinstance(settings.judge, HfJudge) and settings.judge.engine.path is None:
        raise UserError("eval.judge.engine.path: give the judge's folder in Hugging Face format, or a hub id")
    if isinstance(settings.judge, PluginJudge):
        settings.judge.engine.found("eval.judge.engine", "log_odds", "judge")
    reads = {"policies": contents.policies(settings)} if settings.policies else {}
    if settings.rewardbench is None:
        return reads, ()
    from morlaif.evaluation.rewardbench import read_bench

    path = Path(settings.rewardbench).expanduser().absolute()
    read_bench(path)
    return reads, contents.files([path])


def check_objective(config: Config, reward: RewardLayout, trains: bool) -> None:
    """What the objective would stumble over later. `trains`: whether an arm of the run is trained on it.

    Raises:
        UserError: a weight of a principle that nobody has defined (a run may use fewer than its weights name), a
            wrong parameter of the scalarizer, or of one that the evaluation compares with, or a normaliser that does
            not fit the rest.
    """
    known = list(dict.fromkeys([*config.principles.definitions, *reward.names]))
    for key, names in (("zero", config.weights.zero), ("values", config.weights.values or {})):
        for name in names:
            if name not in known and name not in WHOLE_OF:
                hint = f"{suggest(name, known)} Known: {', '.join(known)}."
                raise UserError(f"weights.{key}: no principle '{name}'.{hint}")
    for name, other in config.eval.scalarizers.items():
        try:  # it may name a principle that this run has not: it is left out then
            resolve(other).check(known)
        except UserError as error:
            line = str(error)
            raise UserError(f"eval.scalarizers.{name}{line.removeprefix('scalarizer')}") from None
    names = list(reward.names)
    # a wrong parameter is an error now, not after hours of training
    scalarizer = resolve(config.scalarizer, config.weights.counting(names) if trains else names)
    if config.ppo.keep == "best" and (scalarizer.stateful or config.weights.normalizer == "running"):
        raise UserError(
            "ppo.keep=best compares held-out rewards of different steps, and this objective is not the same at each "
            f"(scalarizer {scalarizer.name}, weights.normalizer={config.weights.normalizer}): use ppo.keep=last"
        )
    if config.ppo.gradient_weights != "none" and len(names) > 1 and scalarizer.function is not linear:
        raise UserError(
            f"ppo.gradient_weights={config.ppo.gradient_weights} weighs a sum of the principles anew at each step, and "
            f"scalarizer {scalarizer.name} is none: use scalarizer=linear, or ppo.gradient_weights=none"
        )
    for key, off in (("gradient_weights", "none"), ("gradient_cosines_every", 0)):
        if (asked := getattr(config.ppo, key)) != off and config.hardware.in_parts:
            raise UserError(
                f"ppo.{key}={asked}: where weights lie in parts on several ranks, each principle's gradient does too: "
                f"use ppo.{key}={off}, or hardware.zero.stage=2"
            )
    if scalarizer.reads_sft_scores and config.ppo.steer.kind != "none":
        raise UserError(
            f"scalarizer {scalarizer.name} holds principles at a level, and ppo.steer.kind={config.ppo.steer.kind} "
            "gives each prompt weights of its own: use another scalarizer, or ppo.steer.kind=none"
        )
    if config.weights.normalizer == "group":
        if scalarizer.reads_sft_scores:
            raise UserError(
                f"scalarizer {scalarizer.name} compares scores with those of the SFT policy's responses, and "
                "weights.normalizer=group leaves of each only how it differs from its neighbours: use "
                "weights.normalizer=frozen or running"
            )
        if config.ppo.samples_per_prompt < 2:
            raise UserError(
                "weights.normalizer=group normalises within the answers to one prompt, and "
                f"ppo.samples_per_prompt={config.ppo.samples_per_prompt}: sample 2 or more (4 to 16 are usual)"
            )
        if config.ppo.advantage == "grpo":
            raise UserError(
                "weights.normalizer=group with ppo.advantage=grpo would divide by the group's deviation twice: "
                "use ppo.advantage=gdpo, or weights.normalizer=frozen"
            )
