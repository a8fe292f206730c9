"""The whole pipeline on a page: which units a config means, what each reads and what each needs.

    data ─▶ sft ─▶ respond ─▶ feedback/<p> ─▶ pm/<p> ─▶ weigh/<arm> ─▶ <method>/<arm> ─▶ evaluate ─▶ report

Preference models that share one trained network (`pm.kind` heads, conditioned) have a unit `backbone/<labels>` before
theirs, which learns from all their verdicts: a principle more or less makes it another network.

A unit reads only what is given to it here, so its digest covers all that can change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from morlaif.arms import Labels, with_chosen_arms
from morlaif.config import Config
from morlaif.data.load import input_files
from morlaif.errors import UserError
from morlaif.evaluation.settings import PMJudge
from morlaif.feedback.settings import HfSettings, HumanSettings
from morlaif.feedback.settings import input_files as feedback_files
from morlaif.models.settings import PairResponses, SampleResponses
from morlaif.naming import WHOLE, labelled_by
from morlaif.planning.arms import arms_of, check_arms, check_needs, fitting, labels_of, named, reward_reads, stage_of
from morlaif.planning.checks import existing_weights, read_outside
from morlaif.planning.contents import Contents
from morlaif.planning.front import front_of
from morlaif.planning.settle import settled, settled_sft
from morlaif.preference.kinds import kind_of
from morlaif.preference.settings import PMSettings
from morlaif.report.settings import chosen
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.settings import OUTSIDE, shown
from morlaif.stages.backbone import STAGE as BACKBONE
from morlaif.stages.backbone import BackboneReads
from morlaif.stages.data import STAGE as DATA
from morlaif.stages.data import DataReads
from morlaif.stages.evaluate import STAGE as EVALUATE
from morlaif.stages.evaluate import EvaluateReads
from morlaif.stages.feedback import STAGE as FEEDBACK
from morlaif.stages.feedback import FeedbackReads
from morlaif.stages.front import STAGE as FRONT
from morlaif.stages.known import NAMES
from morlaif.stages.places import Places
from morlaif.stages.pm import STAGE as PM
from morlaif.stages.pm import PMReads
from morlaif.stages.ppo import STAGE as PPO
from morlaif.stages.report import STAGE as REPORT
from morlaif.stages.report import ReportReads
from morlaif.stages.respond import STAGE as RESPOND
from morlaif.stages.respond import RespondReads
from morlaif.stages.scoring import Method
from morlaif.stages.sft import STAGE as SFT
from morlaif.stages.sft import SFTReads
from morlaif.stages.teacher import STAGE as TEACHER
from morlaif.stages.teacher import TeacherReads
from morlaif.stages.weigh import STAGE as WEIGH
from morlaif.stages.weigh import WeighReads
from morlaif.units.job import R
from morlaif.units.unit import Plan, Stage, Unit

GOLD = "gold"  # the judge of last resort: a preference model of the held-out human labels
LINEAR = ScalarizerSettings(name="linear", function="morlaif.scalarize.functions.linear", params={})
# What digests call units of arms that had other names: a store of those days is used.
KNOWN_AS = {"morlaif": "multi", "rlaif": "single", "principles": "multi", "constitution": "single"}


class _Units:
    """The units of one plan, as they are made."""

    def __init__(self, config: Config, contents: Contents) -> None:
        self.config, self.contents = config, contents
        self.made: list[Unit] = []
        self.places = Places(model=config.model, pm=config.pm)

    def add(
        self, stage: Stage[R, Any], reads: R, needs: Iterable[Unit] = (), name: str = "", of: str = "",
        known_as: str = "", **more: Any,
    ) -> Unit:  # fmt: skip
        """A unit called as its stage, or <stage>/<name>; or <stage>/<of> for what belongs to an arm or its labels."""
        code = self.contents.code(f"{type(stage).__module__}.{type(stage).__qualname__}")
        reads = replace(reads, contents=self.contents.of(reads) | code)
        full = f"{stage.name}/{name or of}" if name or of else stage.name
        known_as = known_as or (f"{stage.name}/{KNOWN_AS[of]}" if of in KNOWN_AS else "")
        self.made.append(Unit(stage, full, reads, tuple(needs), known_as=known_as, **more))
        return self.made[-1]


def plan(config: Config, contents: Contents | None = None) -> Plan:
    """The units of `config`, each after what it needs; `config.stages` chooses how far it goes.

    `contents`: what lies outside the run; a run takes it once, for all its processes.
    """
    contents = Contents(config.paths.store) if contents is None else contents
    config = settled(config)
    given, config = config, contents.pinned(config)
    compared = arms_of(config)
    check_arms(config, compared)
    front = front_of(config)
    arms = {**compared, **front.arms}
    units = _Units(config, contents)
    seed, places = config.seed, units.places

    # 1. what all arms have in common
    rows = DataReads(data=config.data, seed=config.seed_of("data"))
    data = units.add(DATA, rows, files=contents.files(input_files(config.data)))
    sft = units.add(SFT, SFTReads(model=config.model, sft=settled_sft(config), seed=config.seed_of("sft")), [data])
    sampled = isinstance(config.respond, SampleResponses)
    asked = RespondReads(respond=config.respond, places=places if sampled else None, seed=config.seed_of("respond"))
    respond = units.add(RESPOND, asked, [data, sft] if sampled else [data])
    common = {"data": [data], "sft": [sft], "respond": [respond]}
    # People have labelled the data's own pairs: those are learnt from where the run samples others.
    by_people = respond
    if sampled and (isinstance(config.eval.judge, PMJudge) or any(arm.labels == "human" for arm in arms.values())):
        own_pairs = RespondReads(respond=PairResponses(source="pairs"), places=None, seed=config.seed_of("respond"))
        by_people = units.add(RESPOND, own_pairs, [data], "human")
    of_people = {**common, "respond": [by_people]}

    # 2. labels and preference models: arms that learn from the same labels share them
    labels: dict[Labels, dict[str, Unit]] = {}
    models: dict[str, Unit] = {}
    for arm_name, arm in arms.items():
        shared = of_people if arm.labels == "human" else common
        if arm.labels not in labels:
            same = [other for other in arms.values() if other.labels == arm.labels]
            learnt = dict.fromkeys(name for other in same for name in other.labelled)
            reads = labels_of(config, arm.labels, list(learnt))
            labels[arm.labels] = _labels(units, shared["respond"][0], sft, reads)
            wanted = dict.fromkeys(labelled_by(name) for other in same for name in other.layout.models)
            usual = {name for other in same for name in other.layout.models} & wanted.keys()
            judged = {name: (name, labels[arm.labels][name]) for name in wanted if name in usual}
            models |= _preference_models(units, shared, arm.labels, config.pm, judged, config.seed_of("pm"))
        own = [name for name in arm.layout.models if name not in models]  # given more, or to this arm alone
        if own:
            judged = {name: (labelled_by(name), labels[arm.labels][labelled_by(name)]) for name in own}
            models |= _preference_models(
                units, shared, arm.models_of(arm_name), arm.pm, judged, arm.config.seed_of("pm")
            )

    # 3. each arm: weights, then its policy
    weighed: list[Unit] = []
    policies: dict[str, Unit] = {}
    for name, arm in arms.items():
        stages = {
            "feedback": [labels[arm.labels][name] for name in arm.labelled],
            "pm": [models[name] for name in arm.layout.models],
        }
        scored = {"names": tuple(arm.layout.names), "places": places, "seed": seed, **reward_reads(config, arm.layout)}
        from_labels = stages["feedback"] if arm.config.weights.method == "regressed" else []
        weighs = []
        if arm.method.rewarded:
            weigh = WeighReads(weights=arm.config.weights, sft_scores=arm.reads_sft_scores(name), **scored)
            weighs = [units.add(WEIGH, weigh, [data, sft, respond, *stages["pm"], *from_labels], of=name)]
        shared = of_people if arm.labels == "human" else common
        method, parts = arm.method, {**shared, **stages, "weigh": weighs, "teacher": []}
        if arm.settings.start == "teacher":
            parts["teacher"] = [_taught(units, arm.config, places, [data, sft], name)]
        whole = arm.labels in WHOLE or arm.by_rubric or not method.rewarded
        scored["scalarizer"] = LINEAR if whole else arm.scalarizer(arm.key)
        own_settings = method.settings(arm.groups, arm.settings.params)
        params = {key: own_settings.pop(key) for key in arm.settings.params if key in own_settings}
        scored["seed"] = arm.config.seed_of(method.seeded_by or method.name)
        reads = fitting(method, scored | own_settings, params, f"{arm.key}.params")
        for line in method.problems(reads):
            raise UserError(f"{arm.key}: {line}")
        policies[name] = _policy(units, method, reads, parts, name)
        if name in compared:
            weighed += weighs

    # 4. what it came to
    gold: list[Unit] = []
    held_out = config.seed_of("eval")  # of the judge too: it stays the same where the seeds of training differ
    if isinstance(config.eval.judge, PMJudge):
        human = {GOLD: FeedbackReads(feedback=HumanSettings(source="human"), seed=held_out)}
        (labelled,) = _labels(units, by_people, sft, human).values()
        judge = _preference_models(units, of_people, GOLD, config.pm, {GOLD: (GOLD, labelled)}, held_out, "eval")
        gold = [labelled, *judge.values()]
    labelled_by_run = [labels[arm.labels][name] for arm in compared.values() for name in arm.labelled]
    models_of_run = [models[name] for arm in compared.values() for name in arm.layout.models]
    chain = list(dict.fromkeys([*labelled_by_run, *models_of_run]))
    evaluated = EVALUATE.name in config.reached  # else nothing of it need be there
    outside, bench = read_outside(config.eval, contents) if evaluated else ({}, ())
    evaluation = EvaluateReads(
        eval=config.eval, scalarizer=config.scalarizer, objective=config.scalarizer.name,
        principles=tuple(config.principles.chosen),
        arms=tuple(arm.read(name, config.scalarizer) for name, arm in compared.items()),
        places=places, seed=held_out, **outside,
    )  # fmt: skip
    aligned = [policies[name] for name in compared]
    units.add(EVALUATE, evaluation, [data, sft, respond, *chain, *weighed, *aligned, *gold], files=bench)
    for way, measured in front.reads(config, places, held_out).items():
        needed = [*(models[name] for name in measured.models), *(policies[name] for name in measured.trained)]
        units.add(FRONT, measured, [data, sft, *needed, *gold[1:]], way)
    chosen_extra = set()
    for name, extra in config.extra.items():
        stage, key = stage_of(extra.stage, f"extra.{name}"), f"extra.{name}"
        reads = fitting(stage, {"seed": seed}, extra.params, f"{key}.params")
        needs = named(units.made, extra.needs, f"{key}.needs")
        check_needs(stage, needs, f"{key}.needs")
        made = units.add(stage, reads, needs, "" if name == stage.name else name)
        chosen_extra |= {made.name} if name in config.stages else set()
    page = with_chosen_arms(shown(given, OUTSIDE, keep={"served"}))
    units.add(REPORT, ReportReads(config=page, report=chosen(config.report), seed=seed), list(units.made))
    methods = {arm.method.name for arm in arms.values()} if PPO.name in config.stages else set()
    return Plan(tuple(sorted(units.made, key=_place))).restricted_to({*config.stages, *methods}, chosen_extra)


def _taught(units: _Units, config: Config, places: Places, needs: list[Unit], arm: str) -> Unit:
    """The policy of a teacher that an arm begins from."""
    reads = TeacherReads(
        names=(), places=places, seed=config.seed_of("teacher"), scalarizer=LINEAR, teacher=config.teacher
    )
    for line in TEACHER.problems(reads):
        raise UserError(f"arms.definitions.{arm}: {line}")
    return units.add(TEACHER, reads, needs, of=arm)


def _policy(units: _Units, method: Method[Any, Any], reads: Any, parts: Mapping[str, list[Unit]], arm: str) -> Unit:
    """The policy of an arm: one unit, or one a round, each beginning from the one before. What a digest calls a round
    does not depend on how many there are."""

    def needs(before: list[Unit]) -> list[Unit]:
        given = {**parts, method.name: before}
        return [unit for part in method.wanted(reads) for unit in given[part]]

    rounds = method.rounds(reads)
    if rounds is None:
        return units.add(method, reads, needs([]), of=arm)
    made: list[Unit] = []
    for number in range(1, rounds + 1):
        name = f"{arm}/{number}"
        own = arm if number == rounds else name
        round_ = replace(reads, round=number)
        made.append(units.add(method, round_, needs(made[-1:]), own, known_as=f"{method.name}/{name}"))
    return made[-1]


def _labels(units: _Units, respond: Unit, sft: Unit, reads: Mapping[str, FeedbackReads]) -> dict[str, Unit]:
    """A unit of feedback for each of `reads`, by name; it needs the run's own model where that is the judge."""
    contents, made = units.contents, {}
    for name, own in reads.items():
        is_judge = isinstance(own.feedback, HfSettings) and own.feedback.path is None
        own = replace(own, places=units.places) if is_judge else own
        files = contents.files(feedback_files(own.feedback))
        made[name] = units.add(FEEDBACK, own, [respond, sft] if is_judge else [respond], name, files=files)
    return made


def _preference_models(
    units: _Units, common: Mapping[str, list[Unit]], part: str, pm: PMSettings, judged: Mapping[str, tuple[str, Unit]],
    seed: int, split: str = "train",
) -> dict[str, Unit]:  # fmt: skip
    """A preference model for each of `judged`, by what it is called: from the labels of that name and unit."""
    kind, respond = kind_of(pm), common["respond"]
    base = common["sft"] if kind.on_policy else []
    shared = []
    if kind.shared and judged:
        texts = {labels: unit.reads.principle for labels, unit in judged.values()}
        all_of_them = BackboneReads(pm=pm, split=split, places=units.places, principles=texts, seed=seed)
        shared = [units.add(BACKBONE, all_of_them, [*respond, *base, *(unit for _, unit in judged.values())], of=part)]
    models = {}
    for place, (name, (labels, labelled)) in enumerate(judged.items()):
        model = PMReads(
            pm=pm, split=split, places=units.places, principle=labelled.reads.principle, seed=seed,
            weights=existing_weights(pm, labels, units.contents),
        )  # fmt: skip
        # Parts of a fixed size: the number of workers must not change a bit of a result.
        together = f"{part}/{place // kind.joint}" if kind.joint > 1 else None
        models[name] = units.add(PM, model, [*respond, *base, labelled, *shared], name, together=together)
    return models


def _place(unit: Unit) -> int:
    """The place of its stage in the flow of data; that of a user's package after what it needs."""
    name = unit.stage.name
    return NAMES.index(name) if name in NAMES else max(map(_place, unit.needs), default=0)
