"""The whole pipeline on a page: which units a config means, what each reads and what each needs.

    data ─▶ sft ─▶ respond ─▶ feedback/<p> ─▶ pm/<p> ─▶ weigh/<arm> ─▶ ppo/<arm> ─▶ evaluate ─▶ report

A unit reads only what is given to it here, so its digest covers all that can change it.
"""

from __future__ import annotations

from morlaif.config import STAGES, Config
from morlaif.data.load import input_files
from morlaif.errors import UserError, suggest
from morlaif.feedback.settings import HumanSettings, Principle, shared_reads
from morlaif.feedback.settings import input_files as feedback_files
from morlaif.pipeline.unit import Plan, Unit
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

# Raise a stage's number when its code changes what it builds.
VERSIONS = {
    "data": 1, "sft": 1, "respond": 1, "feedback": 1, "pm": 1, "weigh": 1, "ppo": 2, "evaluate": 1, "report": 1,
}  # fmt: skip

SINGLE = "single"  # the baseline: one preference model for a constitution of principles
GOLD = "gold"  # the judge of last resort: a preference model of the held-out human labels
LINEAR = ScalarizerSettings(name="linear", function="morlaif.scalarize.functions.linear", params={})


def plan(config: Config) -> Plan:
    """The units of `config`, each after what it needs; `config.stages` chooses how far it goes."""
    principles = config.principles.chosen
    names = [principle.name for principle in principles]
    resolve(config.scalarizer, names)  # a wrong parameter is said now, not after the preference models are trained
    _check_weights(config)
    seed = {"seed": config.seed}
    units: list[Unit] = []

    def unit(stage: str, reads: dict, needs: list[Unit], name: str | None = None, **more) -> Unit:
        made = Unit(stage, name or stage, VERSIONS[stage], {**reads, **seed}, tuple(needs), **more)
        units.append(made)
        return made

    data = unit("data", {"data": config.data}, [], files=tuple(input_files(config.data)))
    sft = unit("sft", {"model": config.model, "sft": config.sft}, [data])
    sampled = config.respond.source == "sample"
    respond = unit("respond", {"respond": config.respond}, [data, sft] if sampled else [data])

    def preference_model(name: str, labels: dict, split: str = "train") -> tuple[Unit, Unit]:
        files = tuple(feedback_files(labels["feedback"]))
        feedback = unit("feedback", labels, [respond], f"feedback/{name}", files=files)
        base = [sft] if config.pm.base is None else []
        return feedback, unit("pm", {"pm": config.pm, "split": split}, [respond, *base, feedback], f"pm/{name}")

    def principle_model(principle: Principle) -> tuple[Unit, Unit]:
        together = shared_reads(config.feedback, principles)
        return preference_model(principle.name, {"feedback": config.feedback, "principle": principle, **together})

    def baseline_model() -> tuple[Unit, Unit]:
        constitution = {
            "constitution": config.principles.constitution,
            "verdicts_per_pair": config.principles.verdicts_per_pair,
        }
        return preference_model(SINGLE, {"feedback": config.feedback, **constitution})

    labelled: dict[str, list[tuple[Unit, Unit]]] = {}
    if "multi" in config.arms:
        labelled["multi"] = [principle_model(principle) for principle in principles]
    if "single" in config.arms:
        labelled["single"] = [baseline_model()]

    weighed: dict[str, Unit] = {}
    aligned: dict[str, Unit] = {}
    for arm in config.arms:
        models = [pm for _, pm in labelled[arm]]
        scored = [pm.name.removeprefix("pm/") for pm in models]
        labels = [feedback for feedback, _ in labelled[arm]] if config.weights.method == "regressed" else []
        weigh = {"weights": config.weights, "names": scored}
        weighed[arm] = unit("weigh", weigh, [data, sft, respond, *models, *labels], f"weigh/{arm}", paired=True)
        ppo = {"ppo": config.ppo, "scalarizer": LINEAR if arm == SINGLE else config.scalarizer, "names": scored}
        aligned[arm] = unit("ppo", ppo, [data, sft, weighed[arm], *models], f"ppo/{arm}", paired=True)

    gold: tuple[Unit, ...] = ()
    if config.eval.judge.source == "pm":
        gold = preference_model(GOLD, {"feedback": HumanSettings(source="human")}, split="eval")
    chain = [pair for arm in config.arms for pair in labelled[arm]]
    unit(
        "evaluate",
        {
            "eval": config.eval,
            "scalarizer": config.scalarizer,
            "principles": principles,
            "arms": config.arms,
        },
        [data, sft, respond, *(u for pair in chain for u in pair), *weighed.values(), *aligned.values(), *gold],
    )  # fmt: skip
    shown = config.model_dump(mode="json", exclude={"paths", "dry_run", "hardware", "tracking", "stages"})
    unit("report", {"config": shown}, [*units])
    units.sort(key=lambda unit: STAGES.index(unit.stage))  # each still stands after its needs
    return Plan(tuple(units)).restricted_to(config.stages)


def _check_weights(config: Config) -> None:
    """A run may use fewer principles than its weights name, but none that nobody has defined."""
    known = config.principles.definitions
    for key, names in (("zero", config.weights.zero), ("values", config.weights.values or {})):
        for name in names:
            if name not in known and name != SINGLE:
                hint = f"{suggest(name, known)} Known: {', '.join(known)}."
                raise UserError(f"weights.{key}: no principle '{name}'.{hint}")
