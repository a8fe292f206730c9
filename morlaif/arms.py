"""Settings of the groups `arms`, each one way from labels to a policy, and `extra`, further units of the user's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from morlaif.errors import UserError, suggest
from morlaif.settings import DISTINCT, NUMBER, Label, Line, Lines, Params, Seeded, Settings
from morlaif.stages.known import METHODS

USUAL = "ppo"  # the method whose group every page and every run's name has
FORMER = {"multi": "morlaif", "single": "rlaif"}  # what the arms of earlier versions are called now
CHANGEABLE = ("pm", "reward", "weights", "scalarizer")  # groups that an arm may change, besides that of its method
# What results call something else, and what digests call the units of our arms and their labels.
RESERVED = ("sft", "policy", "gold", *FORMER, "principles", "constitution")

Labels = Literal["principles", "constitution", "human", "mixed", "none"]


def _method(value: str) -> str:
    try:
        METHODS.path(value)
    except UserError as error:
        raise ValueError(str(error).removeprefix(f"{METHODS.key}: ")) from None
    return value


def instead(value: Any) -> str:
    """What to write for a list of arms, as earlier versions took it."""
    names = value if isinstance(value, list | tuple) else [value]
    now = ", ".join(FORMER.get(str(name), str(name)) for name in names)
    return f"is a group of keys now: write arms.select=[{now}] (multi is called morlaif, single rlaif)"


def with_chosen_arms(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain values, without the definitions of arms that it does not select, without the groups of methods
    that no arm has, and without a front of no objectives: they change nothing."""
    arms = config.get("arms")
    if not (isinstance(arms, Mapping) and isinstance(arms.get("definitions"), Mapping)):
        return {**config}
    select = arms.get("select")
    chosen = [select] if isinstance(select, str) else select or ()
    front = config.get("front") or {}
    fronted = [front["arm"]] if front.get("objectives") else []
    kept = {name: arm for name, arm in arms["definitions"].items() if name in (*chosen, *fronted)}
    usual = (arms.get("defaults") or {}).get("method")
    methods = {arm.get("method", usual) if isinstance(arm, Mapping) else usual for arm in kept.values()}
    unused = METHODS.known.keys() - methods - {USUAL} | (set() if fronted else {"front"})
    return {name: value for name, value in config.items() if name not in unused} | {
        "arms": {**arms, "definitions": kept}
    }


Times = Literal["principles"] | Annotated[int, Field(ge=1, le=1000), NUMBER]  # or as many as the run has principles


Factor = Literal["members", "steps", "rank"]  # of an ensemble; of training; of the adapter


class ArmDefaults(Settings):
    """What a definition may leave out."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"models": ({},), "start": ("sft",)}

    start: Literal["sft", "teacher"]  # what the method begins from: the SFT policy, or a teacher's imitated
    models: dict[Factor, Times]  # how many times what `pm` says its one preference model is given
    method: Annotated[Line, AfterValidator(_method)]
    title: Label | None  # on pages; null: what the reward suggests
    params: Params  # of a method of your own
    change: Params  # values for this arm alone: {ppo.kl.coef: 0.1}, or a group's preset: {reward: judge}

    @field_validator("change")
    @classmethod
    def _changes_what_is_its_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            group = key.partition(".")[0]
            if group not in (*CHANGEABLE, *METHODS.known):
                offers = ", ".join(f"{one}.<key>" for one in (*CHANGEABLE, *METHODS.known))
                raise ValueError(f"'{key}': an arm may change {offers}; all else is the same for the arms of a run")
        return value


class Arm(ArmDefaults):
    """One way from labels to a policy. All else comes from the groups of the run."""

    labels: Labels

    def factors(self, principles: int) -> dict[str, int]:
        """Of its preference model, those above 1."""
        found = {name: principles if value == "principles" else value for name, value in self.models.items()}
        return {name: value for name, value in found.items() if value > 1}

    @property
    def own_models(self) -> bool:
        """Whether it has preference models to itself: others than `pm` says."""
        return any(key.partition(".")[0] == "pm" for key in self.change)


class Extra(Settings):
    """A unit of a stage of the user's."""

    stage: Line  # dotted path of a class, or the name that a package gives it
    needs: Lines  # units, by name: evaluate, pm/helpfulness
    params: Params  # the fields of what it reads


def _names(value: Any) -> Any:
    if not value or not isinstance(value, list | tuple | str):
        raise ValueError("names no arm. Give a list such as [morlaif, rlaif]")
    return (value,) if isinstance(value, str) else value


class ArmsSettings(Seeded):
    """Which policies are trained and compared. The seed is that of every method whose group has none of its own."""

    select: Annotated[tuple[str, ...], BeforeValidator(_names), DISTINCT]  # the first is the run's policy
    defaults: ArmDefaults
    definitions: dict[Line, Arm]

    @model_validator(mode="before")
    @classmethod
    def _former(cls, value: Any) -> Any:
        if isinstance(value, list | tuple | str):
            raise ValueError(instead(value))
        if isinstance(value, Mapping) and all(
            isinstance(value.get(key), Mapping) for key in ("defaults", "definitions")
        ):
            definitions = {
                name: {**value["defaults"], **own} if isinstance(own, Mapping) else own
                for name, own in value["definitions"].items()
            }
            for name, own in definitions.items():
                if isinstance(own, Mapping) and "labels" not in own:
                    near = suggest(str(name), [other for other in definitions if other != name])
                    wanted = f"{', '.join(get_args(Labels)[:-1])} or {get_args(Labels)[-1]}"
                    raise ValueError(f"definitions.{name}:{near} An arm of your own needs labels: {wanted}")
            return {**value, "definitions": definitions}
        return value

    @field_validator("definitions")
    @classmethod
    def _name_folders(cls, value: dict[str, Arm]) -> dict[str, Arm]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED or "_vs_" in name:
                raise ValueError(f"'{name}': small letters, digits and underscores, and none of {', '.join(RESERVED)}")
        return value

    @model_validator(mode="after")
    def _defined(self) -> ArmsSettings:
        for name in self.select:
            if name in FORMER:
                raise ValueError(f"select: '{name}' is called {FORMER[name]} now")
            if name not in self.definitions:
                known = ", ".join(self.definitions)
                raise ValueError(f"select: no arm '{name}'.{suggest(name, self.definitions)} Known: {known}")
        return self

    @property
    def taught(self) -> bool:
        """Whether a teacher is asked."""
        return any("teacher" in (arm.method, arm.start) for arm in self.chosen.values())

    @property
    def chosen(self) -> Mapping[str, Arm]:
        return {name: self.definitions[name] for name in self.select}
