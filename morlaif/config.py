"""The typed config: what Hydra composes, every room's settings in one tree. Defaults live in `conf/`, not here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError, ValidationInfo

from morlaif.arms import ArmsSettings, Extra
from morlaif.claims.settings import ClaimsSettings
from morlaif.data.settings import DataSettings
from morlaif.dpo.settings import DPOSettings
from morlaif.errors import UserError, suggest
from morlaif.evaluation.human.settings import HumanStudySettings
from morlaif.evaluation.settings import EvalSettings
from morlaif.feedback.settings import FeedbackSettings, JudgePlace, PrinciplesSettings
from morlaif.hardware import HardwareSettings
from morlaif.models.settings import GivenSFT, ModelSettings, RespondSettings
from morlaif.online.settings import BestOfNSettings, OnlineDPOSettings, RejectionSettings, TeacherSettings
from morlaif.preference.settings import PMSettings
from morlaif.presets import options, preset
from morlaif.report.comparison.settings import CompareSettings
from morlaif.report.settings import ReportSettings
from morlaif.reward.settings import RewardSettings
from morlaif.rl.settings import PPOSettings
from morlaif.scalarize.settings import ScalarizerSettings, WeightsSettings
from morlaif.settings import DISTINCT, Folder, Line, OneOf, Seed, Settings
from morlaif.stages.known import ALONE, METHODS, NAMES, reached
from morlaif.stages.ppo import STAGE as PPO
from morlaif.steer.front import FrontSettings
from morlaif.steer.settings import AnswerSettings
from morlaif.tracking.settings import TrackingSettings

COMPARE = ALONE.name


def _stages(value: Any, info: ValidationInfo) -> Any:
    if value == "all":
        return NAMES
    known = (*NAMES, COMPARE, *info.data.get("extra", ()))
    if value is None or value == "" or value == [] or value == ():
        raise ValueError(f"names no stage. Give all, or a list of {', '.join(NAMES)}; or compare alone")
    for name in value if isinstance(value, list | tuple) else [value]:
        if name not in known:
            hint, listed = suggest(str(name), known), ", ".join(one for one in known if one != COMPARE)
            raise ValueError(f"no stage '{name}'.{hint} Give all, or a list of {listed}; or compare alone")
    value = tuple(value) if isinstance(value, list | tuple) else (value,)
    if COMPARE in value and len(value) > 1:
        raise ValueError(
            "compare reads finished runs and goes with no other stage: stages=[compare] compare.runs='runs/*'"
        )
    return value


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
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"extra": ({},)}

    name: Annotated[str, AfterValidator(_run_name)]
    seed: Seed
    extra: dict[Line, Extra]  # before the stages, which may name them
    stages: Annotated[tuple[str, ...], BeforeValidator(_stages), DISTINCT]  # "all" in YAML: every stage
    arms: ArmsSettings
    dry_run: bool | Literal["probe"]  # probe: and measure how fast this machine is
    paths: Paths
    model: ModelSettings
    data: DataSettings
    sft: GivenSFT
    respond: RespondSettings
    principles: PrinciplesSettings
    feedback: FeedbackSettings
    pm: PMSettings
    reward: RewardSettings
    scalarizer: ScalarizerSettings
    weights: WeightsSettings
    ppo: PPOSettings
    dpo: DPOSettings
    best_of_n: BestOfNSettings
    rejection: RejectionSettings
    teacher: TeacherSettings
    online_dpo: OnlineDPOSettings
    front: FrontSettings
    hardware: HardwareSettings
    eval: EvalSettings
    tracking: TrackingSettings
    report: ReportSettings
    compare: CompareSettings
    human: HumanStudySettings
    steer: AnswerSettings
    judge: JudgePlace
    claims: ClaimsSettings

    @property
    def reached(self) -> tuple[str, ...]:
        """All stages of ours up to the furthest that the run builds; a unit of `extra` reaches what it needs."""

        def of(name: str, below: tuple[str, ...] = ()) -> Iterator[str]:
            """`name`: a stage's, a unit's, or a key of `extra`."""
            stage = name.partition("/")[0]
            if stage in NAMES:
                yield stage
            elif name in self.extra and name not in below:
                for need in self.extra[name].needs:
                    yield from of(need, (*below, name))
            elif stage != COMPARE:
                yield PPO.name  # a method of the user's

        return reached(stage for name in self.stages for stage in of(name))

    def seed_of(self, group: str) -> int:
        """From which the units of a group, or of a method (the user's own has no group), draw."""
        own = getattr(getattr(self, group, None), "seed", None)
        if own is None and (group in METHODS.known or group not in type(self).model_fields):
            own = self.arms.seed
        return self.seed if own is None else int(own)


def validate(tree: Mapping[str, Any]) -> Config:
    """The typed config of a composed tree.

    Raises:
        UserError: one line for each wrong key, with its dotted path and what would be right.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        from morlaif.keys import explain_values

        raise UserError("\n".join(explain_values(error, tree, Config))) from None


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with other values at dotted keys: a mapping in place of a mapping, the preset of a name in place of a
    group, as in {reward: judge}.

    Where the kind of a group changes, keys that the new kind does not have go, and its own may be given.

    Raises:
        UserError: the result does not validate.
    """
    tree = config.model_dump(mode="json")
    for name, field in Config.model_fields.items():
        for kind in (part for part in field.metadata if isinstance(part, OneOf)):
            tree[name] = _of_kind(tree[name], kind, kind.members(field.annotation), name, changes)
    for key, value in sorted(changes.items(), key=lambda item: "." in item[0]):  # a group, then keys in it
        if key in Config.model_fields and isinstance(value, str):
            try:
                value = preset(key, value)
            except UserError as error:
                raise UserError(f"{key}: {error}") from None
        *path, last = key.split(".")
        place: Any = tree
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise UserError(f"{key}: there is no such key")
        place[last] = value
    return validate(tree)


def _of_kind(
    group: dict[str, Any], kind: OneOf, ours: Mapping[str, type[BaseModel]], name: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The group as another kind has it, where `changes` name one: what both know, the rest as the preset of that name
    has it (neutral, where there is none), and what is given."""
    wanted = changes.get(f"{name}.{kind.field}", group[kind.field])
    model = ours.get(kind.tag(wanted, ours))
    if wanted == group[kind.field] or model is None:
        return group
    given = (key.removeprefix(f"{name}.") for key in changes if key.startswith(f"{name}."))
    kept = {key: value for key, value in group.items() if key in model.model_fields}
    neutral = {key: values[0] for key, values in getattr(model, "neutral", {}).items()}
    if wanted in options().get(name, ()):
        neutral |= {key: value for key, value in preset(name, wanted).items() if key in model.model_fields}
    return dict.fromkeys(key for key in given if "." not in key) | neutral | kept
