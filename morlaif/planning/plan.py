"""The whole pipeline on a page: which units a config means, what each reads and what each needs.

    data ─▶ sft ─▶ respond ─▶ feedback/<p> ─▶ pm/<p> ─▶ weigh/<arm> ─▶ ppo/<arm> ─▶ evaluate ─▶ report

Preference models that share one trained network (`pm.kind` heads, conditioned) have a unit `backbone/<arm>` before
theirs, which learns from all their verdicts: a principle more or less makes it another network.

A unit reads only what is given to it here, so its digest covers all that can change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from morlaif.config import Config
from morlaif.data.load import input_files
from morlaif.feedback.settings import HumanSettings, shared_reads
from morlaif.feedback.settings import input_files as feedback_files
from morlaif.models.settings import SampleResponses
from morlaif.planning.checks import SINGLE, check_objective, existing_weights, read_outside, reward_reads, rewards_of
from morlaif.planning.contents import Contents
from morlaif.preference.kinds import kind_of
from morlaif.report.settings import chosen
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.settings import shown
from morlaif.stages.backbone import STAGE as BACKBONE
from morlaif.stages.backbone import BackboneReads
from morlaif.stages.data import STAGE as DATA
from morlaif.stages.data import DataReads
from morlaif.stages.evaluate import STAGE as EVALUATE
from morlaif.stages.evaluate import EvaluateReads
from morlaif.stages.feedback import STAGE as FEEDBACK
from morlaif.stages.feedback import FeedbackReads
from morlaif.stages.known import NAMES
from morlaif.stages.places import Places
from morlaif.stages.pm import STAGE as PM
from morlaif.stages.pm import PMReads
from morlaif.stages.ppo import STAGE as PPO
from morlaif.stages.ppo import PPOReads
from morlaif.stages.report import STAGE as REPORT
from morlaif.stages.report import ReportReads
from morlaif.stages.respond import STAGE as RESPOND
from morlaif.stages.respond import RespondReads
from morlaif.stages.sft import STAGE as SFT
from morlaif.stages.sft import SFTReads
from morlaif.stages.weigh import STAGE as WEIGH
from morlaif.stages.weigh import WeighReads
from morlaif.units.job import R
from morlaif.units.unit import Plan, Stage, Unit

GOLD = "gold"  # the judge of last resort: a preference model of the held-out human labels
LINEAR = ScalarizerSettings(name="linear", function="morlaif.scalarize.functions.linear", params={})


def plan(config: Config, contents: Contents | None = None) -> Plan:
    """The units of `config`, each after what it needs; `config.stages` chooses how far it goes.

    `contents`: what lies outside the run; a run takes it once, for all its processes.
    """
    contents = Contents(config.paths.store) if contents is None else contents
    given, config = config, contents.pinned(config)
    principles = config.principles.chosen
    rewards = rewards_of(config)
    check_objective(config, rewards["multi"])
    evaluated = not {"evaluate", "report"}.isdisjoint(config.stages)  # else nothing of it need be there
    outside, bench = read_outside(config.eval, contents) if evaluated else ({}, ())
    seed, places, kind = config.seed, Places(model=config.model, pm=config.pm), kind_of(config.pm)
    units: list[Unit] = []

    def unit(stage: Stage[R, Any], reads: R, needs: Iterable[Unit], name: str | None = None, **more: Any) -> Unit:
        reads = replace(reads, contents=contents.of(reads))
        made = Unit(stage, name or stage.name, reads, tuple(needs), **more)
        units.append(made)
        return made

    data = unit(DATA, DataReads(data=config.data, seed=seed), [], files=contents.files(input_files(config.data)))
    sft = unit(SFT, SFTReads(model=config.model, sft=config.sft, seed=seed), [data])
    sampled = isinstance(config.respond, SampleResponses)
    asked = RespondReads(respond=config.respond, places=places if sampled else None, seed=seed)
    respond = unit(RESPOND, asked, [data, sft] if sampled else [data])

    def preference_models(
        arm: str, labels: Mapping[str, FeedbackReads], split: str = "train"
    ) -> list[tuple[Unit, Unit]]:
        """Feedback and preference model for each of `labels`."""
        base = [sft] if kind.on_policy else []
        judged = {
            name: unit(FEEDBACK, own, [respond], f"feedback/{name}", files=contents.files(feedback_files(own.feedback)))
            for name, own in labels.items()
        }
        shared = []
        if kind.shared and labels:
            reads = BackboneReads(
                pm=config.pm, split=split, places=places, seed=seed,
                principles={name: own.principle for name, own in labels.items()},
            )  # fmt: skip
            shared = [unit(BACKBONE, reads, [respond, *base, *judged.values()], f"backbone/{arm}")]
        made = []
        for place, (name, own) in enumerate(labels.items()):
            reads = PMReads(
                pm=config.pm, split=split, places=places, seed=seed, principle=own.principle,
                weights=existing_weights(config.pm, name, contents),
            )  # fmt: skip
            # Parts of a fixed size: the number of workers must not change a bit of a result.
            part = f"{arm}/{place // kind.joint}" if kind.joint > 1 else None
            needs = [respond, *base, judged[name], *shared]
            made.append((judged[name], unit(PM, reads, needs, f"pm/{name}", together=part)))
        return made

    modelled = tuple(principle for principle in principles if principle.name in rewards["multi"].models)

    def principle_models() -> list[tuple[Unit, Unit]]:
        shared = shared_reads(config.feedback, modelled)
        labels = {p.name: FeedbackReads(feedback=config.feedback, principle=p, seed=seed, **shared) for p in modelled}
        return preference_models("multi", labels)

    def baseline_model() -> list[tuple[Unit, Unit]]:
        reads = FeedbackReads(
            feedback=config.feedback, constitution=tuple(config.principles.constitution),
            verdicts_per_pair=config.principles.verdicts_per_pair, seed=seed,
        )  # fmt: skip
        return preference_models(SINGLE, {SINGLE: reads})

    labelled: dict[str, list[tuple[Unit, Unit]]] = {}
    if "multi" in config.arms:
        labelled["multi"] = principle_models()
    if "single" in config.arms:
        labelled["single"] = baseline_model() if rewards["single"].models else []

    weighed: dict[str, Unit] = {}
    aligned: dict[str, Unit] = {}
    for arm in config.arms:
        models = [pm for _, pm in labelled[arm]]
        scored = {"names": tuple(rewards[arm].names), "places": places, "seed": seed}
        scored |= reward_reads(config, rewards[arm])
        labels = [feedback for feedback, _ in labelled[arm]] if config.weights.method == "regressed" else []
        weigh = WeighReads(weights=config.weights, **scored)
        weighed[arm] = unit(WEIGH, weigh, [data, sft, respond, *models, *labels], f"weigh/{arm}")
        ppo = PPOReads(ppo=config.ppo, scalarizer=LINEAR if arm == SINGLE else config.scalarizer, **scored)
        aligned[arm] = unit(PPO, ppo, [data, sft, weighed[arm], *models], f"ppo/{arm}")

    gold: Sequence[Unit] = ()
    if config.eval.judge.source == "pm":
        human = FeedbackReads(feedback=HumanSettings(source="human"), seed=seed)
        ((*gold,),) = preference_models(GOLD, {GOLD: human}, split="eval")
    chain = [part for arm in config.arms for pair in labelled[arm] for part in pair]
    unit(
        EVALUATE,
        EvaluateReads(
            eval=config.eval, scalarizer=config.scalarizer, objective=config.scalarizer.name,
            principles=tuple(principles), arms=config.arms, places=places, seed=seed, **outside,
        ),
        [data, sft, respond, *chain, *weighed.values(), *aligned.values(), *gold],
        files=bench,
    )  # fmt: skip
    outside = {"paths", "dry_run", "hardware", "tracking", "stages", "report", "compare", "human"}
    page = shown(given, outside, keep={"served"})
    unit(REPORT, ReportReads(config=page, report=chosen(config.report), seed=seed), [*units])
    units.sort(key=lambda unit: NAMES.index(unit.stage.name))  # each still stands after its needs
    return Plan(tuple(units)).restricted_to(config.stages)
