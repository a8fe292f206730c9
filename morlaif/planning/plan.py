"""The whole pipeline on a page: which units a config means, what each reads and what each needs.

    data ─▶ sft ─▶ respond ─▶ feedback/<p> ─▶ pm/<p> ─▶ weigh/<arm> ─▶ ppo/<arm> ─▶ evaluate ─▶ report

Preference models that share one trained network (`pm.kind` heads, conditioned) have a unit `backbone/<arm>` before
theirs, which learns from all their verdicts: a principle more or less makes it another network.

A unit reads only what is given to it here, so its digest covers all that can change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from morlaif.config import STAGES, Config
from morlaif.data.load import input_files
from morlaif.errors import UserError, suggest
from morlaif.evaluation.settings import EvalSettings, HfJudge
from morlaif.feedback.settings import Criterion, HumanSettings, PrinciplesSettings, shared_reads
from morlaif.feedback.settings import input_files as feedback_files
from morlaif.planning.contents import Contents
from morlaif.preference.settings import SHARED, PMSettings, PretrainedPM
from morlaif.reward.settings import JudgeReward, Layout, PMReward, check, layout, of_baseline
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.stages.work.places import Places
from morlaif.units.unit import Plan, Unit

# Raise a stage's number when its code changes what it builds.
VERSIONS = {
    "data": 1,
    "sft": 3,
    "respond": 2,
    "feedback": 2,
    "backbone": 2,
    "pm": 3,
    "weigh": 3,
    "ppo": 5,
    "evaluate": 3,
    "report": 3,
    "compare": 3,
}

SINGLE = "single"  # the baseline: one preference model for a constitution of principles
GOLD = "gold"  # the judge of last resort: a preference model of the held-out human labels
LINEAR = ScalarizerSettings(name="linear", function="morlaif.scalarize.functions.linear", params={})


def plan(config: Config, contents: Contents | None = None) -> Plan:
    """The units of `config`, each after what it needs; `config.stages` chooses how far it goes.

    `contents`: what lies outside the run; a run takes it once, for all its processes.
    """
    contents = Contents(config.paths.store) if contents is None else contents
    given, config = config, contents.pinned(config)
    principles = config.principles.chosen
    rewards = _rewards(config)
    _check_objective(config, rewards["multi"])
    evaluated = not {"evaluate", "report"}.isdisjoint(config.stages)  # else nothing of it need be there
    outside, bench = _outside(config.eval, contents) if evaluated else ({}, ())
    seed, places = {"seed": config.seed}, {"places": Places(model=config.model, pm=config.pm)}
    units: list[Unit] = []

    def unit(stage: str, reads: dict, needs: list[Unit], name: str | None = None, **more) -> Unit:
        if (held := contents.of(reads)) and stage != "report":
            reads = {**reads, "contents": held}
        made = Unit(stage, name or stage, VERSIONS[stage], {**reads, **seed}, tuple(needs), **more)
        units.append(made)
        return made

    data = unit("data", {"data": config.data}, [], files=contents.files(input_files(config.data)))
    sft = unit("sft", {"model": config.model, "sft": config.sft}, [data])
    sampled = config.respond.source == "sample"
    reads = {"respond": config.respond, **(places if sampled else {})}
    respond = unit("respond", reads, [data, sft] if sampled else [data])

    def preference_models(arm: str, labels: dict[str, dict], split: str = "train") -> list[tuple[Unit, Unit]]:
        """Feedback and preference model for each of `labels`."""
        pm = config.pm
        base = [sft] if getattr(pm, "base", "") is None else []
        judged = {
            name: unit(
                "feedback", own, [respond], f"feedback/{name}", files=contents.files(feedback_files(own["feedback"]))
            )
            for name, own in labels.items()
        }
        reads = {"pm": pm, "split": split, **places}
        shared = []
        if pm.kind in SHARED and labels:
            texts = {"principles": {name: own.get("principle") for name, own in labels.items()}}
            needs = [respond, *base, *judged.values()]
            shared = [unit("backbone", {**reads, **texts}, needs, f"backbone/{arm}", paired=True)]
        most = getattr(pm, "joint", 1)  # parts of a fixed size: the number of workers must not change a bit of a result
        return [
            (
                feedback,
                unit(
                    "pm", {**reads, "principle": labels[name].get("principle"), **_weights_of(pm, name, contents)},
                    [respond, *base, feedback, *shared], f"pm/{name}", paired=True,
                    together=f"{arm}/{place // most}" if most > 1 else None,
                ),
            )
            for place, (name, feedback) in enumerate(judged.items())
        ]  # fmt: skip

    modelled = tuple(principle for principle in principles if principle.name in rewards["multi"].models)

    def principle_models() -> list[tuple[Unit, Unit]]:
        shared = {"feedback": config.feedback, **shared_reads(config.feedback, modelled)}
        return preference_models("multi", {p.name: {**shared, "principle": p} for p in modelled})

    def baseline_model() -> list[tuple[Unit, Unit]]:
        constitution = {
            "constitution": config.principles.constitution,
            "verdicts_per_pair": config.principles.verdicts_per_pair,
        }
        return preference_models(SINGLE, {SINGLE: {"feedback": config.feedback, **constitution}})

    labelled: dict[str, list[tuple[Unit, Unit]]] = {}
    if "multi" in config.arms:
        labelled["multi"] = principle_models()
    if "single" in config.arms:
        labelled["single"] = baseline_model() if rewards["single"].models else []

    weighed: dict[str, Unit] = {}
    aligned: dict[str, Unit] = {}
    for arm in config.arms:
        models = [pm for _, pm in labelled[arm]]
        scored = {"names": rewards[arm].names, **_reward_reads(config, rewards[arm]), **places}
        labels = [feedback for feedback, _ in labelled[arm]] if config.weights.method == "regressed" else []
        weigh = {"weights": config.weights, **scored}
        weighed[arm] = unit("weigh", weigh, [data, sft, respond, *models, *labels], f"weigh/{arm}", paired=True)
        ppo = {"ppo": config.ppo, "scalarizer": LINEAR if arm == SINGLE else config.scalarizer, **scored}
        aligned[arm] = unit("ppo", ppo, [data, sft, weighed[arm], *models], f"ppo/{arm}", paired=True)

    gold: Sequence[Unit] = ()
    if config.eval.judge.source == "pm":
        ((*gold,),) = preference_models(GOLD, {GOLD: {"feedback": HumanSettings(source="human")}}, split="eval")
    chain = [pair for arm in config.arms for pair in labelled[arm]]
    unit(
        "evaluate",
        {
            "eval": config.eval,
            "scalarizer": config.scalarizer,
            "objective": config.scalarizer.name,  # what results call it
            "principles": principles,
            "arms": config.arms,
            **outside,
            **places,
        },
        [data, sft, respond, *(u for pair in chain for u in pair), *weighed.values(), *aligned.values(), *gold],
        files=bench,
    )  # fmt: skip
    outside = {"paths", "dry_run", "hardware", "tracking", "stages", "compare", "human"}
    shown = given.model_dump(mode="json", exclude=outside)
    unit("report", {"config": shown}, [*units])
    units.sort(key=lambda unit: STAGES.index(unit.stage))  # each still stands after its needs
    return Plan(tuple(units)).restricted_to(config.stages)


def _weights_of(pm: PMSettings, name: str, contents: Contents) -> dict[str, Any]:
    """What tells the weights of a reward model that exists already from others that may come to lie in their place.

    Raises:
        UserError: no reward model is named for this principle.
    """
    if not isinstance(pm, PretrainedPM):
        return {}
    paths = pm.paths or {}
    if name not in paths:
        only = " or leave the baseline out: arms=[multi]" if name == SINGLE else ""
        raise UserError(f"pm.paths: no reward model for '{name}'; give 'pm.paths={{{name}: <folder or hub id>}}'{only}")
    source = pm.source(name)
    return {"weights": contents.model(source.key, source.path, source.revision, source.trust_remote_code)}


def _rewards(config: Config) -> dict[str, Layout]:
    """What each arm's policy is rewarded by.

    Raises:
        UserError: a mistake in the group `reward` that shows before anything is built.
    """
    check(config.reward, config.feedback)
    names = [principle.name for principle in config.principles.chosen]
    return {"multi": layout(config.reward, names), "single": of_baseline(config.reward)}


def objective_problems(config: Config) -> Iterator[str]:
    """What is wrong with the reward and the objective, a line each."""
    try:
        rewards = _rewards(config)
        _check_objective(config, rewards["multi"])
    except UserError as error:
        yield from str(error).splitlines()


def _reward_reads(config: Config, reward: Layout) -> dict[str, Any]:
    """What a unit that scores reads besides the names. Of preference models alone, nothing: it needs their units."""
    if isinstance(reward.reward, PMReward):
        return {}
    reads: dict[str, Any] = {"reward": reward}
    judged = {column.own for part in reward.judges for column in reward.of(part)}
    if judged:
        reads["criteria"] = tuple(c for c in _criteria(config.principles, reward.reward) if c.name in judged)
    if any(judge.engine is None for judge in reward.judges.values()):
        reads["feedback"] = config.feedback
    return reads


def _criteria(principles: PrinciplesSettings, reward: Any) -> list[Criterion]:
    """How a judge is asked for the rating under each principle, and for the baseline's overall one."""
    made = [principles.criterion(principle) for principle in principles.chosen]
    if isinstance(reward, JudgeReward):
        constitution = {principle.name: principle for principle in principles.constitution}
        name = reward.overall or next(iter(constitution))
        if name not in constitution:
            known = ", ".join(constitution)
            hint = suggest(name, constitution)
            raise UserError(f"reward.overall: no principle '{name}' in the constitution.{hint} Known: {known}.")
        made.append(principles.criterion(constitution[name], SINGLE))
    return made


def _outside(settings: EvalSettings, contents: Contents) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the evaluation reads from outside the run: the identity of each further policy, and the benchmark's file.

    Raises:
        UserError: one is not there, or a row of the file is not as it should be; said before hours of training.
    """
    if isinstance(settings.judge, HfJudge) and settings.judge.engine.path is None:
        raise UserError("eval.judge.engine.path: give the judge's folder in Hugging Face format, or a hub id")
    reads = {"policies": contents.policies(settings)} if settings.policies else {}
    if settings.rewardbench is None:
        return reads, ()
    from morlaif.evaluation.rewardbench import read_bench

    path = Path(settings.rewardbench).expanduser().absolute()
    read_bench(path)
    return reads, contents.files([path])


def _check_objective(config: Config, reward: Layout) -> None:
    """What the objective would stumble over later.

    Raises:
        UserError: a weight of a principle that nobody has defined (a run may use fewer than its weights name), a
            wrong parameter of the scalarizer, or of one that the evaluation compares with, or a normaliser that does
            not fit the rest.
    """
    known = list(dict.fromkeys([*config.principles.definitions, *reward.names]))
    for key, names in (("zero", config.weights.zero), ("values", config.weights.values or {})):
        for name in names:
            if name not in known and name != SINGLE:
                hint = f"{suggest(name, known)} Known: {', '.join(known)}."
                raise UserError(f"weights.{key}: no principle '{name}'.{hint}")
    for name, other in config.eval.scalarizers.items():
        try:  # it may name a principle that this run has not: it is left out then
            resolve(other).check(known)
        except UserError as error:
            line = str(error)
            raise UserError(f"eval.scalarizers.{name}{line.removeprefix('scalarizer')}") from None
    names = list(reward.names)
    # a wrong parameter is said now, not after hours of training
    scalarizer = resolve(config.scalarizer, config.weights.counting(names) if "multi" in config.arms else names)
    if config.ppo.keep == "best" and (scalarizer.stateful or config.weights.normalizer == "running"):
        raise UserError(
            "ppo.keep=best compares held-out rewards of different steps, and this objective is not the same at each "
            f"(scalarizer {scalarizer.name}, weights.normalizer={config.weights.normalizer}): use ppo.keep=last"
        )
    if config.weights.normalizer == "group":
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
