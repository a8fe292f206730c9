"""Scores of responses, (B, K) with a name for each column, from whatever the settings say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from morlaif.data.records import Message
from morlaif.errors import MachineError, UserError
from morlaif.feedback.judge import at_home, open_checklist, open_rater
from morlaif.feedback.rating import Rater, Rating, Single
from morlaif.feedback.settings import Criterion, FeedbackSettings
from morlaif.naming import labelled_by
from morlaif.preference.sets import Ask
from morlaif.reward.cascade import Bank, CascadeScores, Scale
from morlaif.reward.discriminator import DiscriminatorScores, Encode
from morlaif.reward.rubrics import COSTS, Rubrics, RubricScores
from morlaif.reward.settings import (
    CascadeReward,
    DiscriminatorReward,
    FunctionReward,
    JudgeReward,
    PluginReward,
    PMReward,
    RewardLayout,
    RubricReward,
    find_function,
    key_of,
)

Prompts = Sequence[list[Message]]
Responses = Sequence[str]


class RewardSource(Protocol):
    """Something that scores, and counts what that takes."""

    names: tuple[str, ...]

    def __call__(self, prompts: Prompts, responses: Responses) -> Tensor:
        """(B, K), a column for each of `names`; higher is better."""

    def take_facts(self) -> Mapping[str, float]:
        """What it has counted since it was last asked; empty where there is nothing to count."""


@runtime_checkable
class Learning(Protocol):
    """A source that learns while the policy does: a trainer gives it each step's samples, and keeps its state."""

    def observe(self, prompts: Prompts, responses: Responses) -> None:
        """One step's samples, of all ranks, after they were scored."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def open_reward(
    layout: RewardLayout,
    *,
    models: Callable[[Sequence[str], Mapping[str, Ask]], Bank],
    criteria: Mapping[str, Criterion],
    feedback: FeedbackSettings | None,
    ledger: Path,
    settled: Callable[[FeedbackSettings], FeedbackSettings] = lambda judge: judge,
    imitated: Callable[[int, int], tuple[Encode, Prompts, Responses]] | None = None,
    scale: Scale | None = None,
) -> RewardSource:
    """The reward that `layout` lays out.

    Args:
        models: loads the preference models of the columns named; with what columns that have no model of their own ask
            of others.
        criteria: how a judge is asked, by what a column's part calls it.
        feedback: the run's own source, for judges without an engine.
        ledger: where ratings are kept that cost money or time.
        settled: puts the run's own model into the settings of a judge that names no other.
        imitated: of how many demonstrations, and how many tokens at most: what reads them, their prompts, their texts.
        scale: of a cascade, as its `calibrate` gave it; None: its models score alone.
    """
    sources: list[RewardSource] = []
    for part, settings in layout.parts.items():
        columns, key = layout.of(part), key_of(layout.reward, part)
        names = tuple(column.name for column in columns)
        match settings:
            case PMReward():
                bank = models([column.own for column in columns], settings.asks(columns))
                sources.append(ModelScores(names, bank.score))
            case JudgeReward() | CascadeReward():
                judge, at = (settings.judge, f"{key}.judge") if isinstance(settings, CascadeReward) else (settings, key)
                rater = open_rater(settled(_asked(judge, feedback)), ledger=ledger, highest=judge.highest)
                asked = {column.name: criteria[labelled_by(column.own)] for column in columns}
                ratings = JudgeScores(rater, asked, judge, at)
                if isinstance(settings, CascadeReward):
                    bank = models([column.own for column in columns], {})
                    sources.append(CascadeScores(names, bank, ratings, settings, scale, key))
                else:
                    sources.append(ratings)
            case RubricReward():
                checklist = open_checklist(settled(_asked(settings, feedback)), ledger=ledger, highest=settings.highest)
                rubrics = Rubrics.read(Path(settings.path or "").expanduser(), f"{key}.path")
                sources.append(RubricScores(names, checklist, rubrics, settings, key))
            case FunctionReward():
                function = partial(find_function(settings, key), **settings.params)
                sources.append(FunctionScores(names, function, f"{key}.function '{settings.function}'"))
            case DiscriminatorReward():
                assert imitated is not None, "whoever opens this reward knows the data"
                read = imitated(settings.demonstrations, settings.max_length)
                sources.append(DiscriminatorScores(names, settings, *read))
            case PluginReward():
                sources.append(FunctionScores(names, settings.found(key)(), f"{key}.kind '{settings.kind}'"))
    return sources[0] if len(sources) == 1 else SideBySide(sources)


class ModelScores:
    """Preference models, in one bank."""

    def __init__(self, names: tuple[str, ...], score: Callable[[Prompts, Responses], Tensor]) -> None:
        self.names, self._score = names, score

    def __call__(self, prompts: Prompts, responses: Responses) -> Tensor:
        return self._score(prompts, responses)

    def take_facts(self) -> Mapping[str, float]:
        return {}


class JudgeScores:
    """A judge's ratings in [−1, 1], each asked for once: the ledger remembers, and equal responses share a rating.

    A rating that is not usable is asked for again, `asks` times in all. If it still is not, the response gets the mean
    of the usable ratings beside it, which moves the policy nowhere, and is counted; too many of them end the run.
    """

    def __init__(self, rater: Rater, asked: Mapping[str, Criterion], settings: JudgeReward, key: str) -> None:
        """`asked`: the criterion of each column. `key`: of `settings` in the config, for messages."""
        self.names = tuple(asked)
        self._rater, self._asked, self._settings, self._key = rater, asked, settings, key
        self._count: Counter[str] = Counter()

    def __call__(self, prompts: Prompts, responses: Responses) -> Tensor:
        rows = [
            [Single.of(messages, text, criterion) for criterion in self._asked.values()]
            for messages, text in zip(prompts, responses, strict=True)
        ]
        found = self._ask({_name(single): single for row in rows for single in row})
        columns = list(zip(*([found[_name(single)] for single in row] for row in rows), strict=True))
        return torch.tensor([self._column(*named) for named in zip(self.names, columns, strict=True)]).T

    def rate(self, cells: Sequence[tuple[list[Message], str, str]]) -> list[float | None]:
        """Of a prompt, a response and a column each; None where no rating was usable."""
        wanted = [Single.of(messages, text, self._asked[column]) for messages, text, column in cells]
        found = self._ask({_name(single): single for single in wanted})
        scores = [found[_name(single)].score for single in wanted]
        self._count.update(ratings=len(scores), invalid=sum(score is None for score in scores))
        return scores

    def take_facts(self) -> Mapping[str, float]:
        """Ratings, unusable ones, and what the answers behind them cost, whether now or in an earlier run."""
        counted, self._count = self._count, Counter()
        return dict.fromkeys(("ratings", "invalid", *COSTS), 0.0) | counted

    def _ask(self, wanted: Mapping[tuple[str, str], Single]) -> dict[tuple[str, str], Rating]:
        found: dict[tuple[str, str], Rating] = {}
        for attempt in range(self._settings.asks):
            missing = [
                replace(single, attempt=attempt)
                for name, single in wanted.items()
                if name not in found or not found[name].valid
            ]
            if not missing:
                break
            try:
                for single, rating in self._rater.judge(missing):
                    found[_name(single)] = rating
                    self._count.update({kind: getattr(rating, kind) for kind in COSTS})
            except (UserError, MachineError) as error:
                raise at_home(error, f"{self._key}.engine" if self._settings.engine else "feedback") from None
        return found

    def _column(self, name: str, ratings: Sequence[Rating]) -> list[float]:
        usable = [rating.score for rating in ratings if rating.score is not None]
        lacking = len(ratings) - len(usable)
        self._count.update(ratings=len(ratings), invalid=lacking)
        if not usable or lacking > self._settings.max_invalid * len(ratings):
            reasons = Counter(rating.reason for rating in ratings if not rating.valid).most_common(3)
            raise UserError(
                f"{self._key}: {lacking} of {len(ratings)} ratings by {self._rater.name} under '{name}' are not usable "
                f"({', '.join(f'{n} × {reason}' for reason, n in reasons)}); {self._key}.max_invalid="
                f"{self._settings.max_invalid:g} allows fewer. What was answered is kept. "
                "Try another model, or raise the limit."
            )
        neutral = sum(usable) / len(usable)
        return [neutral if rating.score is None else rating.score for rating in ratings]


class FunctionScores:
    """A function of the user's, or an object that is called as one; it may give a tensor, an array or nested lists."""

    def __init__(self, names: tuple[str, ...], function: Callable[..., Any], where: str) -> None:
        """`where`: the key and value that name the function, for messages."""
        self.names, self._function, self._where = names, function, where

    def __call__(self, prompts: Prompts, responses: Responses) -> Tensor:
        given: Any = self._function(list(prompts), list(responses))
        where, wanted = self._where, (len(responses), len(self.names))
        try:
            scores = torch.as_tensor(given, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{where}: gave {type(given).__name__}, not numbers of shape {wanted} ({error})") from None
        if scores.ndim == 1 and len(self.names) == 1:
            scores = scores[:, None]
        if tuple(scores.shape) != wanted:
            raise UserError(
                f"{where}: gave shape {tuple(scores.shape)} for {len(responses)} responses and {len(self.names)} names "
                f"({', '.join(self.names)}); it must be {wanted}"
            )
        return scores.detach()

    def take_facts(self) -> Mapping[str, float]:
        take = getattr(self._function, "take_facts", None)
        return take() if take is not None else {}


class SideBySide:
    """The columns of several sources."""

    def __init__(self, sources: Sequence[RewardSource]) -> None:
        self.sources = sources
        self.names = tuple(name for source in sources for name in source.names)

    def __call__(self, prompts: Prompts, responses: Responses) -> Tensor:
        return torch.cat([source(prompts, responses).float().cpu() for source in self.sources], dim=1)

    def take_facts(self) -> Mapping[str, float]:
        facts: Counter[str] = Counter()
        for source in self.sources:
            facts.update(source.take_facts())
        return facts

    def observe(self, prompts: Prompts, responses: Responses) -> None:
        for source in self._learning:
            source.observe(prompts, responses)

    def state_dict(self) -> dict[str, Any]:
        return {"sources": [source.state_dict() for source in self._learning]} if self._learning else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for source, own in zip(self._learning, state["sources"], strict=True):
            source.load_state_dict(own)

    @property
    def _learning(self) -> list[Learning]:
        return [source for source in self.sources if isinstance(source, Learning)]


def _name(single: Single) -> tuple[str, str]:
    return single.id, single.principle.name


def _asked(settings: JudgeReward | RubricReward, feedback: FeedbackSettings | None) -> FeedbackSettings:
    """Who rates."""
    found = settings.engine or feedback
    assert found is not None  # the unit reads the run's feedback where a judge has no engine
    return found
