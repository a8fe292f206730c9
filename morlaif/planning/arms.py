"""The arms of a run as they are planned: what each is rewarded by, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from morlaif.arms import Arm, Labels
from morlaif.config import Config, changed
from morlaif.errors import UserError, suggest
from morlaif.feedback.settings import Criterion, HumanSettings, PrinciplesSettings, shared_reads
from morlaif.naming import WHOLE, labelled_by, of_more, own_of
from morlaif.params import checked, wanted
from morlaif.planning.budgets import given_more
from morlaif.planning.checks import check_objective
from morlaif.preference.settings import PMSettings
from morlaif.registry import Registry
from morlaif.reward.settings import (
    Column,
    JudgeReward,
    MixtureReward,
    OfModels,
    PMReward,
    RewardLayout,
    RubricReward,
    check,
    key_of,
    layout,
    of_whole,
    with_scalarizer,
)
from morlaif.scalarize.functions import linear
from morlaif.scalarize.masked import check_maskable
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.settings import Settings
from morlaif.stages.evaluate import ArmRead
from morlaif.stages.feedback import FeedbackReads
from morlaif.stages.known import METHODS, NAMES, OTHERS
from morlaif.stages.scoring import Method, MethodReads
from morlaif.units.job import Reads, gather
from morlaif.units.unit import Stage, Unit

S = TypeVar("S", bound=Stage[Any, Any])
SCHEDULED = "morlaif.scalarize.functions.scheduled"
RESERVED = {part.name for part in fields(MethodReads)}  # what a plan gives


@dataclass(frozen=True)
class PlannedArm:
    """One arm with the config that it reads."""

    settings: Arm
    config: Config  # of the run, with what the arm changes
    layout: RewardLayout  # of its reward
    method: Method[Any, Any]
    factors: Mapping[str, int]  # of what its preference model is given more
    key: str  # of the config: where it is defined

    @property
    def pm(self) -> PMSettings:
        """Of its preference models."""
        return given_more(self.config.pm, self.factors, "arms.models") if self.factors else self.config.pm

    def models_of(self, name: str) -> str:
        """What the preference models are called together that the arm `name` has to itself."""
        return own_of(self.labels, name) if self.settings.own_models else self.layout.models[0]

    @property
    def by_rubric(self) -> bool:
        """Whether its reward is one number that a scalarizer has made already, of the criteria of each prompt."""
        return isinstance(self.layout.reward, RubricReward)

    @property
    def labels(self) -> Labels:
        return self.settings.labels

    @property
    def labelled(self) -> list[str]:
        """The units of `feedback`, by name, that its preference models learn from, or its policy itself."""
        found = list(self.layout.models)
        if self.method.verdicts and self.labels != "none":
            known = {*WHOLE.values(), *(principle.name for principle in self.config.principles.chosen)}
            found += [column.own for column in self.layout.columns if labelled_by(column.own) in known]
        return list(dict.fromkeys(map(labelled_by, found)))

    @property
    def groups(self) -> dict[str, Settings]:
        found = {name: getattr(self.config, name) for name in Config.model_fields}
        return {name: value for name, value in found.items() if isinstance(value, Settings)}

    def scalarizer(self, key: str) -> ScalarizerSettings:
        """Of its objective: that of the config, or the weighted sum whose weights follow the schedule of a mixture.

        Raises:
            UserError: a schedule with another scalarizer than the sum; `key` is that of the arm.
        """
        reward, usual = self.config.reward, self.config.scalarizer
        if not (isinstance(reward, MixtureReward) and reward.schedule) or self.labels in WHOLE:
            return usual
        if resolve(usual).function is not linear:
            raise UserError(
                f"{key}: reward.schedule changes the weights of a sum, and scalarizer {usual.name} is none: use "
                "scalarizer=linear"
            )
        columns = [column for column in self.layout.columns if column.part in reward.schedule]
        points = {column.name: reward.schedule[column.part] for column in columns}
        return ScalarizerSettings(name=SCHEDULED.rpartition(".")[2], function=SCHEDULED, params={"points": points})

    def reads_sft_scores(self, name: str) -> bool:
        """Whether its objective, or one that its run's evaluation compares with it, needs SFT's own scores."""
        if self.labels in WHOLE or self.by_rubric:
            return False
        compared = self.config.eval.scalarizers.values()
        return any(resolve(one).reads_sft_scores for one in (self.scalarizer(name), *compared))

    def read(self, name: str, usual: ScalarizerSettings) -> ArmRead:
        """What an evaluation reads of it, in a run of the scalarizer `usual`."""
        own = self.scalarizer(name)
        return ArmRead(
            name=name, labels=self.labels, models=tuple(self.layout.models), title=self.settings.title,
            method=self.method.name, scalarizer=None if own == usual else own,
        )  # fmt: skip


def arms_of(config: Config) -> dict[str, PlannedArm]:
    """The arms of a run, by name, the run's policy first.

    Raises:
        UserError: a mistake in a definition or in the group `reward` that shows before anything is built.
    """
    return {name: planned(config, name, arm, f"arms.definitions.{name}") for name, arm in config.arms.chosen.items()}


def planned(config: Config, name: str, arm: Arm, key: str) -> PlannedArm:
    """The arm called `name`, which the config defines at `key`.

    Raises:
        UserError: as `arms_of`.
    """
    principles = [principle.name for principle in config.principles.chosen]
    try:
        own = changed(config, arm.change) if arm.change else config
    except UserError as error:
        lines = str(error).splitlines()
        raise UserError("\n".join(f"{key}.change.{line}" for line in lines)) from None
    check(own.reward, own.feedback)
    method = _method(arm.method, key)
    if arm.start != "sft" and not method.may_start:
        raise UserError(f"{key}.start={arm.start}: {method.name} begins from the SFT policy; leave it out")
    reward = with_scalarizer(own.reward, own.scalarizer)
    columns = of_whole(reward, arm.labels) if arm.labels in WHOLE else layout(reward, principles)
    if not method.rewarded:
        if arm.labels != "none":
            raise UserError(f"{key}.labels: {arm.labels}, but {method.name} learns from none; give labels: none")
        columns = RewardLayout(reward=PMReward(kind="pm", principles=None, draw=None, written={}), columns=())
    for part, rubric in columns.rubrics.items():
        at = f"{key_of(reward, part)}.scalarizer" if own.reward == reward else "scalarizer"
        check_maskable(resolve(rubric.scalarizer or own.scalarizer), at)
    factors = arm.factors(len(principles))
    if factors:
        columns = _of_more(arm, own, columns, factors, f"{key}.models")
    if arm.own_models:
        columns = _of_itself(name, columns, f"{key}.change.pm")
    return PlannedArm(arm, own, columns, method, factors, key)


def _of_more(arm: Arm, config: Config, columns: RewardLayout, factors: Mapping[str, int], key: str) -> RewardLayout:
    """The layout of an arm whose preference model has a name of its own, since it is given more than others.

    Raises:
        UserError: it has several models, or none, or one of a kind that cannot be given more.
    """
    if arm.labels not in WHOLE or not columns.models:
        raise UserError(
            f"{key}: an arm with one preference model, of labels as a whole, is given more; not {arm.labels}"
        )
    given_more(config.pm, factors, key)
    (column,) = columns.columns
    name = of_more(column.own, factors)
    return columns.model_copy(update={"columns": (column.model_copy(update={"name": name, "own": name}),)})


def _of_itself(arm: str, columns: RewardLayout, key: str) -> RewardLayout:
    """The layout of an arm with preference models to itself: columns are called as ever, their models after the arm.

    Raises:
        UserError: its reward has no preference model.
    """
    if not columns.models:
        raise UserError(f"{key}: changes preference models, and this arm's reward has none")
    of_models = {name for name, part in columns.parts.items() if isinstance(part, OfModels)}

    def renamed(column: Column) -> Column:
        if column.part not in of_models:
            return column
        if column.of:  # it asks models of other columns, and has none of its own
            return column.model_copy(update={"of": tuple(own_of(name, arm) for name in column.of)})
        return column.model_copy(update={"own": own_of(column.own, arm)})

    return columns.model_copy(update={"columns": tuple(map(renamed, columns.columns))})


def _method(name: str, key: str) -> Method[Any, Any]:
    return _of_class(METHODS, name, key, Method, MethodReads)


def stage_of(name: str, key: str) -> Stage[Any, Any]:
    """A stage of the user's.

    Raises:
        UserError: there is none.
    """
    return _of_class(OTHERS, name, key, Stage, Reads)


def _of_class(registry: Registry[Any], name: str, key: str, base: type[S], reads: type[Reads]) -> S:
    try:
        found = registry.find(name)
    except UserError as error:
        raise UserError(f"{key}.{error}") from None
    where = f"{key}.{registry.key} '{name}'"
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{where}: expected a class that inherits {base.__module__}.{base.__name__}")
    if lacking := [part for part in ("name", "version", "reads") if not hasattr(found, part)]:
        raise UserError(f"{where}: the class has no {', '.join(lacking)}")
    if not issubclass(found.reads, reads):
        raise UserError(f"{where}: expected as its reads a class that inherits {reads.__module__}.{reads.__name__}")
    if found.name in NAMES and not (issubclass(found, Method) and found.name in METHODS.known):
        raise UserError(f"{where}: its name, {found.name}, is that of a stage of ours; call it something else")
    return found()


def fitting(stage: Stage[Any, Any], given: Mapping[str, Any], params: Mapping[str, Any], key: str) -> Any:
    """What the stage reads: `given` by the plan, `params` by the user under `key`.

    Raises:
        UserError: one of `params` is unknown, missing or of the wrong type.
    """
    path = f"{type(stage).__module__}.{type(stage).__qualname__}"
    fields_left = wanted(stage.reads, {*RESERVED, *given})
    return stage.reads(**given, **checked(params, fields_left, key=key, path=path, name=stage.name))


def named(units: Sequence[Unit], names: Sequence[str], key: str) -> list[Unit]:
    """The units of these names.

    Raises:
        UserError: there is no such unit in the run.
    """
    known = {unit.name: unit for unit in units}
    for name in names:
        if name not in known:
            raise UserError(f"{key}: the run has no unit '{name}'.{suggest(name, known)} Known: {', '.join(known)}")
    return [known[name] for name in names]


def check_needs(stage: Stage[Any, Any], units: Sequence[Unit], key: str) -> None:
    """
    Raises:
        UserError: a stage of the user's declares others than these.
    """
    try:
        gather(stage.needs, {unit.name: Path(unit.name) for unit in units})
    except TypeError as error:
        raise UserError(f"{key}: {error}") from None


def check_arms(config: Config, arms: Mapping[str, PlannedArm]) -> None:
    """
    Raises:
        UserError: an arm whose reward needs preference models that nothing labels, or a mistake in an objective.
    """
    for name, arm in arms.items():
        if name in config.eval.policies:
            raise UserError(f"eval.policies.{name}: an arm of the run is called so; call the policy something else")
        if arm.labels == "none" and arm.layout.models:
            models = ", ".join(arm.layout.models)
            raise UserError(
                f"{arm.key}.labels: none, but its reward needs preference models ({models}): give "
                "labels: principles, or a reward of judges or functions"
            )
        if arm.method.verdicts and not arm.labelled:
            raise UserError(
                f"{arm.key}.labels: {arm.method.name} learns from verdicts, and there are none of "
                f"{arm.labels}{'' if arm.labels == 'none' else ' under what this reward is made of'}: give labels: "
                "constitution or human, or principles with a reward of preference models or judges"
            )
    rewarded = {name: arm for name, arm in arms.items() if arm.method.rewarded and not arm.by_rubric}
    of_many = [arm for arm in rewarded.values() if arm.labels not in WHOLE]
    for name, arm in arms.items():
        if name in rewarded:
            resolve(arm.scalarizer(arm.key)).start(arm.layout.names)
    for arm in of_many:
        check_objective(arm.config, arm.layout, trains=True)
    if not of_many:
        names = [principle.name for principle in config.principles.chosen]
        check_objective(config, layout(config.reward, names), trains=False)


def arm_problems(config: Config) -> Iterator[str]:
    """What is wrong with the arms, their rewards and objectives, a line each."""
    try:
        check_arms(config, arms_of(config))
    except UserError as error:
        yield from str(error).splitlines()


def labels_of(config: Config, labels: Labels, models: Sequence[str]) -> dict[str, FeedbackReads]:
    """What each of `models`, the preference models of some labels, is labelled by."""
    if not models:
        return {}
    seed, judge = config.seed_of("feedback"), config.feedback
    if labels in ("constitution", "mixed"):
        constitution, drawn = tuple(config.principles.constitution), config.principles.verdicts_per_pair
        reads = FeedbackReads(
            feedback=judge, constitution=constitution, verdicts_per_pair=drawn, seed=seed, people=labels == "mixed"
        )
        return {WHOLE[labels]: reads}
    if labels == "human":
        return {WHOLE[labels]: FeedbackReads(feedback=HumanSettings(source="human"), seed=seed)}
    chosen = tuple(principle for principle in config.principles.chosen if principle.name in models)
    shared = shared_reads(judge, chosen)
    return {p.name: FeedbackReads(feedback=judge, principle=p, seed=seed, **shared) for p in chosen}


def reward_reads(config: Config, reward: RewardLayout) -> dict[str, Any]:
    """What a unit that scores reads besides the names. Of preference models alone that are called as its columns,
    nothing: it needs their units."""
    if isinstance(reward.reward, PMReward) and reward.models == reward.names:
        return {}
    reads: dict[str, Any] = {"reward": reward}
    judged = {labelled_by(column.own) for part in reward.judges for column in reward.of(part)}
    if judged:
        reads["criteria"] = tuple(c for c in _criteria(config.principles, reward.reward) if c.name in judged)
    raters: list[JudgeReward | RubricReward] = [*reward.judges.values(), *reward.rubrics.values()]
    if any(rater.engine is None for rater in raters):
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
        made.append(principles.criterion(constitution[name], WHOLE["constitution"]))
    return made
