"""Settings of the group `reward`, and what follows from them before anything is built. Imports no torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from morlaif.data.files import find_file
from morlaif.dotted import find
from morlaif.errors import UserError, suggest
from morlaif.feedback.rating import check_rater
from morlaif.feedback.settings import FeedbackSettings
from morlaif.naming import WHOLE
from morlaif.params import checked, refuse_unknown, wanted
from morlaif.preference.sets import Ask
from morlaif.registry import Registry
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.settings import (
    NUMBER,
    Coefficient,
    Count,
    Decay,
    Line,
    Number,
    OneOf,
    Outside,
    Params,
    PathText,
    Positive,
    Settings,
    Share,
    Text,
    Whole,
)

PrincipleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]

SET = "principle_set"  # the column of several principles that are read together
RUBRIC = "rubric"  # the column of the ratings by a prompt's own criteria


class PMReward(Settings):
    """Preference models, one a principle; of a kind that reads principles, sets of them and some that it never saw."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"draw": (None,), "written": ({},)}

    kind: Literal["pm"]
    principles: list[Line] | None  # null: all of the run's
    draw: Count | None  # so many principles a prompt, read together as one column; null: a column for each
    written: dict[PrincipleName, Text]  # principles that no model has learnt, by name, as they are read

    def asks(self, columns: Sequence[Column]) -> dict[str, Ask]:
        """What is asked besides the principles that the models have learnt, by what a column's part calls it."""
        found = {}
        for column in columns:
            if column.of:
                written = self.written if self.draw else {column.own: self.written[column.own]}
                found[column.own] = Ask(column.of, written, self.draw)
        return found


class JudgeReward(Settings):
    """A judge that rates each response by itself, one rating a principle."""

    outside_digest = frozenset({"max_invalid"})

    kind: Literal["judge"]
    engine: FeedbackSettings | None  # who rates; null: the run's feedback
    principles: list[Line] | None  # null: all of the run's
    overall: Line | None  # of the constitution, for the single arm; null: its first
    highest: Annotated[int, Field(ge=2, le=10), NUMBER]
    asks: Annotated[int, Field(ge=1, le=10), NUMBER]  # attempts at a usable rating
    max_invalid: Decay


class RubricReward(Settings):
    """A judge that rates each response by the criteria of its prompt, which a file gives; one column for them all."""

    outside_digest = frozenset({"path", "max_invalid"})
    reads_outside: ClassVar[Mapping[str, Outside]] = {"path": "file"}

    kind: Literal["rubric"]
    path: PathText | None  # of the rubrics; must be given
    engine: FeedbackSettings | None  # who rates; null: the run's feedback
    scalarizer: ScalarizerSettings | None  # of the ratings of one response; null: the run's
    highest: Annotated[int, Field(ge=2, le=10), NUMBER]
    asks: Annotated[int, Field(ge=1, le=10), NUMBER]  # attempts at usable ratings
    max_invalid: Decay


class CascadeReward(Settings):
    """Preference models, and a judge's rating in place of a score on which their members disagree."""

    kind: Literal["cascade"]
    principles: list[Line] | None  # null: all of the run's
    judge: JudgeReward  # who is asked; which principles is said above
    above: Positive | None  # members' deviation, in deviations of the model's scores, above which it is asked
    share: Share | None  # or of a batch's scores, those on which members are furthest apart
    reference: Annotated[int, Field(ge=2, le=10_000), NUMBER]  # responses that both score, once, for a common scale

    @model_validator(mode="after")
    def _one_rule(self) -> CascadeReward:
        if (self.above is None) == (self.share is None):
            raise ValueError("give one of `above` and `share`, and null for the other")
        return self


class Named(Settings):
    """What scores under names of its own."""

    names: Annotated[tuple[Line, ...], Field(min_length=1)]  # of its columns

    @field_validator("names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in WHOLE.values():
                taken = ", ".join(WHOLE.values())
                raise ValueError(f"'{name}': small letters, digits and underscores, and none of {taken}")
        if len(set(names)) < len(names):
            raise ValueError("two columns with one name")
        return names


class FunctionReward(Named):
    """A function of the user's: (prompts, responses) -> (B, K) or (B,)."""

    reads_outside: ClassVar[Mapping[str, Outside]] = {"function": "function"}

    kind: Literal["function"]
    function: Line | None  # dotted path; must be given
    params: Params


class DiscriminatorReward(Named):
    """A discriminator of demonstrations against the policy's samples, fitted anew as the policy learns."""

    kind: Literal["discriminator"]
    demonstrations: Count  # of the train split
    every: Count  # steps of the policy
    recent: Count  # samples of the policy
    ridge: Positive
    max_length: Count  # tokens of prompt and response

    @field_validator("names")
    @classmethod
    def _one(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(names) != 1:
            raise ValueError(f"a discriminator has one column, not {len(names)}")
        return names


class PluginReward(Named):
    """A reward in a package of the user's: a class or function whose call with `params` gives what scores.

    That is made once for a unit and then called with prompts and responses, as a `FunctionReward` is; it may have a
    method `take_facts`, as a `reward.sources.Source` has.
    """

    reads_outside: ClassVar[Mapping[str, Outside]] = {"kind": "function"}

    kind: Line | None  # dotted path, or the name of an entry point; must be given
    params: Params

    def found(self, key: str) -> Callable[[], Callable[..., Any]]:
        """What makes it; imports the class.

        Args:
            key: of these settings in the config, for messages.

        Raises:
            UserError: there is none, it cannot be imported, or it has other parameters.
        """
        if self.kind is None:
            raise UserError(f"{key}.kind: give the dotted path of a reward, such as my_package.rewards.Mine")
        make = replace(REWARDS, key=f"{key}.kind").find(self.kind)
        params = checked(self.params, wanted(make), key=f"{key}.params", path=self.kind, name=self.kind)
        return partial(make, **params)


REWARDS: Registry[Callable[..., Any]] = Registry(
    kind="reward",
    key="reward.kind",
    home="morlaif.reward.sources",
    known={
        "pm": "morlaif.reward.sources.ModelScores",
        "judge": "morlaif.reward.sources.JudgeScores",
        "function": "morlaif.reward.sources.FunctionScores",
        "discriminator": "morlaif.reward.discriminator.DiscriminatorScores",
        "rubric": "morlaif.reward.rubrics.RubricScores",
        "mixture": "morlaif.reward.sources.SideBySide",
        "cascade": "morlaif.reward.cascade.CascadeScores",
    },
)
Part = Annotated[
    PMReward | JudgeReward | CascadeReward | RubricReward | FunctionReward | DiscriminatorReward | PluginReward,
    OneOf("kind", REWARDS),
]


class MixtureReward(Settings):
    """Several rewards side by side, each with columns of its own and a weight."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"schedule": (None,)}

    kind: Literal["mixture"]
    parts: Annotated[dict[str, Part], Field(min_length=1)]
    weights: dict[str, Positive]  # by part; multiplies what `weights` makes of its columns
    # by part: [step, factor on its weight], …; others keep their weight
    schedule: dict[str, Annotated[list[tuple[Whole, Coefficient]], Field(min_length=1)]] | None

    @model_validator(mode="after")
    def _weights_of_parts(self) -> MixtureReward:
        for name in self.parts:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"parts: '{name}': small letters, digits and underscores")
            if name not in self.weights:
                raise ValueError(f"weights: none for the part '{name}'.{suggest(name, self.weights)}")
        for key in ("weights", "schedule"):
            for name in getattr(self, key) or ():
                if name not in self.parts:
                    raise ValueError(f"{key}: no part '{name}'.{suggest(name, self.parts)}")
        return self


RewardSettings = Annotated[
    PMReward
    | JudgeReward
    | CascadeReward
    | RubricReward
    | FunctionReward
    | DiscriminatorReward
    | MixtureReward
    | PluginReward,
    OneOf("kind", REWARDS),
]


OfModels = (PMReward, CascadeReward)  # whose columns each have a preference model


class Column(Settings):
    """One column of the scores."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"of": ((),)}

    name: str
    part: str  # of the mixture; "" where there is none
    own: str  # what the part calls it: a principle, or one of a function's names
    weight: Number
    of: tuple[str, ...]  # models that are asked otherwise than about their own principle: see `PMReward.asks`


class RewardLayout(Settings):
    """The columns of a reward in their order. They count in the digest, and tell stages how to put it together."""

    reward: RewardSettings
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def parts(self) -> dict[str, Part]:
        return {**self.reward.parts} if isinstance(self.reward, MixtureReward) else {"": self.reward}

    def of(self, part: str) -> list[Column]:
        return [column for column in self.columns if column.part == part]

    @property
    def models(self) -> list[str]:
        """The principles that need a preference model."""
        of_models = [column for column in self.columns if isinstance(self.parts[column.part], OfModels)]
        return list(dict.fromkeys(name for column in of_models for name in column.of or (column.own,)))

    @property
    def rubrics(self) -> dict[str, RubricReward]:
        return {name: part for name, part in self.parts.items() if isinstance(part, RubricReward)}

    @property
    def judges(self) -> dict[str, JudgeReward]:
        parts = {name: part.judge if isinstance(part, CascadeReward) else part for name, part in self.parts.items()}
        return {name: part for name, part in parts.items() if isinstance(part, JudgeReward)}


def layout(reward: RewardSettings, principles: Sequence[str]) -> RewardLayout:
    """The columns that `reward` has in a run with these principles.

    A name that an earlier part of a mixture has taken gets the part's name in front.

    Raises:
        UserError: a principle that the run does not have, or a name that is still taken.
    """
    parts = reward.parts if isinstance(reward, MixtureReward) else {"": reward}
    weights = reward.weights if isinstance(reward, MixtureReward) else {"": 1.0}
    columns: dict[str, Column] = {}
    for part, settings in parts.items():
        for own, models in _own_names(settings, principles, key_of(reward, part)).items():
            name = f"{part}_{own}" if own in columns else own
            if name in columns:
                raise UserError(f"reward.parts.{part}: two columns '{name}'; call the part something else")
            columns[name] = Column(name=name, part=part, own=own, weight=weights[part], of=models)
    return RewardLayout(reward=reward, columns=tuple(columns.values()))


def of_whole(reward: RewardSettings, labels: str) -> RewardLayout:
    """One column for a response as a whole: a preference model of `labels`; under `reward=judge`, of a constitution, a
    judge's overall rating."""
    rated = isinstance(reward, JudgeReward) and labels == "constitution"
    column = Column(name=WHOLE[labels], part="", own=WHOLE[labels], weight=1.0, of=())
    return RewardLayout(
        reward=reward if rated else PMReward(kind="pm", principles=None, draw=None, written={}), columns=(column,)
    )


def key_of(reward: RewardSettings, part: str) -> str:
    """The key of a part's settings."""
    return f"reward.parts.{part}" if isinstance(reward, MixtureReward) else "reward"


def check(reward: RewardSettings, feedback: FeedbackSettings) -> None:
    """What can be known to be wrong before anything is built.

    Raises:
        UserError: a judge that cannot rate; a function that is not there, or takes other parameters.
    """
    parts = reward.parts if isinstance(reward, MixtureReward) else {"": reward}
    for part, settings in parts.items():
        key = key_of(reward, part)
        if isinstance(settings, JudgeReward | CascadeReward):
            judge, at = (settings.judge, f"{key}.judge") if isinstance(settings, CascadeReward) else (settings, key)
            check_rater(judge.engine or feedback, f"{at}.engine" if judge.engine else "feedback")
        elif isinstance(settings, RubricReward):
            check_rater(settings.engine or feedback, f"{key}.engine" if settings.engine else "feedback")
            if settings.path is None:
                raise UserError(f"{key}.path: give the file of rubrics, as in {key}.path=rubrics.jsonl")
            find_file(f"{key}.path", settings.path)
        elif isinstance(settings, FunctionReward):
            find_function(settings, key)
        elif isinstance(settings, PluginReward):
            settings.found(key)


def find_function(settings: FunctionReward, key: str) -> Callable[..., Any]:
    """The function, which takes prompts and responses by position and the parameters by name."""
    home = "morlaif.reward.functions"
    if settings.function is None:
        raise UserError(f"{key}.function: give a dotted path such as {home}.length_near, or of a function of your own")
    function = find(settings.function, f"{key}.function", home, "length_near")
    refuse_unknown(settings.params, wanted(function, first=2), key=f"{key}.params", path=settings.function)
    try:
        inspect.signature(function).bind([], [], **settings.params)
    except TypeError as error:
        called = "it is called with prompts and responses, and with params by name"
        raise UserError(f"{key}.function '{settings.function}': {error}; {called}") from None
    except ValueError:  # written in C, say: it has no signature
        pass
    return function


def with_scalarizer(reward: RewardSettings, usual: ScalarizerSettings) -> RewardSettings:
    """The reward, its rubrics combined by `usual` where they name no scalarizer of their own."""
    if isinstance(reward, RubricReward) and reward.scalarizer is None:
        return reward.model_copy(update={"scalarizer": usual})
    if isinstance(reward, MixtureReward):
        parts: dict[str, Any] = {
            name: part.model_copy(update={"scalarizer": usual})
            if isinstance(part, RubricReward) and part.scalarizer is None
            else part
            for name, part in reward.parts.items()
        }
        return reward.model_copy(update={"parts": parts})
    return reward


def _own_names(settings: Part, principles: Sequence[str], key: str) -> Mapping[str, tuple[str, ...]]:
    """Its columns; with the models of those that are asked otherwise."""
    if isinstance(settings, RubricReward):
        return {RUBRIC: ()}
    if isinstance(settings, Named):
        return dict.fromkeys(settings.names, ())
    chosen = principles if settings.principles is None else settings.principles
    for name in chosen:
        if name not in principles:
            known = ", ".join(principles)
            raise UserError(
                f"{key}.principles: '{name}' is not in this run ({known}).{suggest(name, principles)} One that no "
                f"model has learnt is given with its words, to pm=salmon: +{key}.written.{name}='…'"
            )
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"{key}.principles: give each principle once, and at least one, not {settings.principles}")
    if not isinstance(settings, PMReward):
        return dict.fromkeys(chosen, ())
    if taken := [name for name in settings.written if name in principles]:
        raise UserError(f"{key}.written.{taken[0]}: the run has a principle of this name; call it something else")
    if settings.draw is not None:
        return {SET: tuple(chosen)}
    return dict.fromkeys(chosen, ()) | dict.fromkeys(settings.written, (chosen[0],))
