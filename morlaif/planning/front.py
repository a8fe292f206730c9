"""Which policies a front takes, each an arm outside of `arms.select`, and what its units read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from morlaif.arms import Arm
from morlaif.config import Config
from morlaif.errors import UserError, suggest
from morlaif.evaluation.settings import RulesJudge
from morlaif.naming import labelled_by
from morlaif.planning.arms import PlannedArm, planned
from morlaif.reward.settings import PMReward
from morlaif.stages.front import FrontReads
from morlaif.stages.places import Places
from morlaif.steer.front import FrontSettings, spread
from morlaif.steer.simplex import Point, grid, name_of, weights

PREFIX = "front-"  # of its arms: a name that no arm of a config can have
CONDITIONED = f"{PREFIX}conditioned"  # the one for all weights


@dataclass(frozen=True)
class PlannedFront:
    """What a front adds to a plan; empty where a config has none."""

    arms: Mapping[str, PlannedArm] = field(default_factory=dict)  # corners first
    points: Mapping[str, Point] = field(default_factory=dict)

    def reads(self, config: Config, places: Places, seed: int) -> dict[str, FrontReads]:
        """By way. `seed`: of held-out evaluation."""
        if not self.points:
            return {}
        settings, evaluation = config.front, config.eval
        answers = evaluation.answering
        if settings.prompts is not None:
            answers = answers.model_copy(update={"prompts": settings.prompts})
        covers = {one.name: one.covers for one in config.principles.chosen if one.name in settings.principles}
        models = next(iter(self.arms.values())).layout.models
        common = FrontReads(
            seed=seed, way="soup", objectives=settings.parts, covers=covers, points=self.points, trained=(),
            models={name: labelled_by(name) for name in models}, places=places, answers=answers,
            judge=evaluation.judge, truth=isinstance(evaluation.judge, RulesJudge), reference=evaluation.reference,
            resamples=evaluation.resamples, confidence=evaluation.confidence,
        )  # fmt: skip
        made: dict[str, FrontReads] = {}
        for way in settings.ways:
            names = {"soup": _corners(settings), "direct": {*map(_arm_of, self.points)}, "conditioned": {CONDITIONED}}
            trained = tuple(name for name in self.arms if name in names[way])
            made[way] = replace(common, way=way, trained=trained, soup=settings.soup if way == "soup" else None)
        return made


def front_of(config: Config) -> PlannedFront:
    """
    Raises:
        UserError: a mistake in the group `front` that shows before anything is built.
    """
    settings = config.front
    if not settings.objectives:
        return PlannedFront()
    names = list(settings.objectives)
    points = {name_of(point, names): point for point in grid(len(names), settings.steps)}
    corners = _corners(settings)
    trained = {_arm_of(name): point for name, point in points.items()}
    wanted = {
        name: point
        for name, point in sorted(trained.items(), key=lambda item: item[0] not in corners)
        if "direct" in settings.ways or ("soup" in settings.ways and name in corners)
    }
    arms = {}
    if wanted:
        arm = _definition(config, "front.arm", settings.arm)
        arms = {name: _weighed(config, "front.arm", arm, name, point) for name, point in wanted.items()}
    if "conditioned" in settings.ways:
        arm = _definition(config, "front.conditioned", settings.conditioned)
        arms[CONDITIONED] = _weighed(config, "front.conditioned", arm, CONDITIONED, (1,) * len(names))
    for name, one in arms.items():
        _check(one, name, settings)
    return PlannedFront(arms, points)


def _arm_of(point: str) -> str:
    return f"{PREFIX}{point}"


def _corners(settings: FrontSettings) -> set[str]:
    return {f"{PREFIX}{name}" for name in settings.objectives}


def _definition(config: Config, key: str, name: str) -> Arm:
    """The definition that policies of the front have, but for their weights."""
    settings, known = config.front, config.arms.definitions
    chosen = [principle.name for principle in config.principles.chosen]
    for principle in settings.principles:
        if principle not in chosen:
            hint = f"{suggest(principle, chosen)} Known: {', '.join(chosen)}"
            raise UserError(f"front.objectives: no principle '{principle}' in this run.{hint}")
    if name not in known:
        raise UserError(f"{key}: no arm '{name}'.{suggest(name, known)} Known: {', '.join(known)}")
    arm = known[name]
    if arm.labels != "principles":
        raise UserError(f"{key}={name}: its labels are {arm.labels}; weights need labels: principles")
    if arm.own_models:
        raise UserError(f"{key}={name}: changes preference models, which all points share; give pm=… to the whole run")
    return arm


def _weighed(config: Config, key: str, arm: Arm, name: str, point: Point) -> PlannedArm:
    settings = config.front
    change = dict(arm.change)
    values = spread(settings.parts, weights(point))
    change |= {"weights.method": "given", "weights.values": values, "weights.zero": []}
    if isinstance(config.reward, PMReward) and "reward" not in change:
        change["reward.principles"] = settings.principles
    if settings.scalarizer is not None:
        change["scalarizer"] = settings.scalarizer
    return planned(config, name, arm.model_copy(update={"change": change}), key)


def _check(arm: PlannedArm, name: str, settings: FrontSettings) -> None:
    method = arm.method
    given = f"{arm.key}={settings.conditioned if name == CONDITIONED else settings.arm}"
    if not method.rewarded:
        raise UserError(f"{given}: {method.name} has no reward, so no weights")
    reward = arm.config.reward
    if not isinstance(reward, PMReward) or reward.draw is not None:
        raise UserError(f"{given}: its policies are rewarded by preference models, one a principle; take reward=pm")
    steered = getattr(arm.groups.get(method.name), "steer", None)
    steers = steered is not None and steered.kind != "none"
    if steers != (name == CONDITIONED):
        right = "its policy takes weights; front.conditioned is for it" if steers else "its policy takes no weights"
        raise UserError(f"{given}: {right}")
    if name in _corners(settings) and "soup" in settings.ways and method.artifact != "model":
        raise UserError(f"front.ways: soup merges weights, and {method.name} leaves no model; take front.ways=[direct]")
