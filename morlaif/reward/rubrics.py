"""Rubrics: criteria and weights of each prompt's own, and the reward that a judge's ratings by them make.

A file has one JSON object a line:

    {"prompt": "…", "criteria": [{"criterion": "names the year", "weight": 2.0}, {"criterion": "is kind"}]}

A prompt is a text or a list of messages; a line without one holds for every prompt that no other line names. A weight
below zero says that less is better; without one it is 1. `covers` names toy-world principles, for the rules judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from morlaif.data.records import Message, prompt_id
from morlaif.data.rows import MalformedRow, UnusableRow, read_prompt
from morlaif.errors import MachineError, UserError
from morlaif.feedback.judge import at_home
from morlaif.feedback.rubric import Checklist, ChecklistRater, Ratings
from morlaif.feedback.settings import Criterion
from morlaif.files import read_json_lines
from morlaif.reward.settings import RubricReward
from morlaif.scalarize.masked import check_maskable, masked
from morlaif.scalarize.registry import Scalarizer, resolve
from morlaif.settings import Number, Text

COSTS = ("usd", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class Rubric:
    """The criteria of one prompt and their weights."""

    criteria: tuple[Criterion, ...]
    weights: tuple[float, ...]


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    criterion: Text
    weight: Number = 1.0
    covers: Annotated[tuple[str, ...], Field(min_length=1)] = ("overall",)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Any = None
    criteria: Annotated[tuple[_Item, ...], Field(min_length=1)]


class Rubrics:
    """The rubrics of a file, by prompt."""

    def __init__(self, by_prompt: Mapping[str, Rubric], usual: Rubric | None, where: str) -> None:
        """`usual`: of prompts that no line names. `where`: key and file, for messages."""
        self._by_prompt, self._usual, self._where = by_prompt, usual, where

    @classmethod
    def read(cls, path: Path, key: str) -> Rubrics:
        """
        Raises:
            UserError: a line is not as it should be.
        """
        found: dict[str, Rubric] = {}
        usual: Rubric | None = None
        for line, tree in read_json_lines(path):
            where = f"{key}: {path}:{line}"
            try:
                row = _Row.model_validate(tree)
                name = None if row.prompt is None else prompt_id(read_prompt(row.prompt, "prompt"))
            except ValidationError as error:
                first = error.errors()[0]
                at = ".".join(map(str, first["loc"]))
                raise UserError(f"{where}: {at}: {first['msg'].removeprefix('Value error, ').lower()}") from None
            except (MalformedRow, UnusableRow) as error:
                raise UserError(f"{where}: {error}") from None
            if (usual is not None) if name is None else name in found:
                what = "a second line without a prompt" if name is None else "its prompt has a rubric already"
                raise UserError(f"{where}: {what}; give one line for each")
            made = _rubric(row.criteria, where)
            if name is None:
                usual = made
            else:
                found[name] = made
        if not found and usual is None:
            raise UserError(f"{key}: {path} holds no rubric")
        return cls(found, usual, f"{key}={str(path)!r}")

    def of(self, messages: Sequence[Message]) -> Rubric:
        """
        Raises:
            UserError: the file has none for this prompt.
        """
        rubric = self._by_prompt.get(prompt_id(messages), self._usual)
        if rubric is None:
            asked = " ".join(messages[-1]["content"].split())
            raise UserError(
                f"{self._where}: no rubric for the prompt {asked[:60] + '…' * (len(asked) > 60)!r}; add a line for it, "
                "or one without a prompt, which holds for all others"
            )
        return rubric


def _rubric(items: Sequence[_Item], where: str) -> Rubric:
    if not any(item.weight for item in items):
        raise UserError(f"{where}: every weight is zero; one criterion must count")
    texts = Counter(item.criterion for item in items)
    if (twice := texts.most_common(1)[0])[1] > 1:
        raise UserError(f"{where}: the criterion {twice[0][:60]!r} is given twice")
    kept = [item for item in items if item.weight]
    criteria = (Criterion(name=f"c{k}", ask=item.criterion, covers=item.covers) for k, item in enumerate(kept, 1))
    return Rubric(tuple(criteria), tuple(item.weight for item in kept))


class RubricScores:
    """Each response rated by the criteria of its prompt, the ratings combined by a scalarizer: one column.

    Ratings are asked for as `JudgeScores` does. A response whose ratings stay unusable gets the mean of the others, and
    is counted; too many of them end the run.
    """

    def __init__(
        self, names: tuple[str, ...], rater: ChecklistRater, rubrics: Rubrics, settings: RubricReward, key: str
    ) -> None:
        """`names`: of its one column. `key`: of `settings` in the config, for messages."""
        self.names = names
        self._rater, self._rubrics, self._settings, self._key = rater, rubrics, settings, key
        assert settings.scalarizer is not None  # the plan gives the run's
        self._scalarizer: Scalarizer = resolve(settings.scalarizer)
        check_maskable(self._scalarizer, f"{key}.scalarizer")
        self._count: Counter[str] = Counter()

    def __call__(self, prompts: Sequence[list[Message]], responses: Sequence[str]) -> Tensor:
        ratings, weights = self.ratings(prompts, responses)
        usable = ~ratings.isnan().all(1)
        value = torch.zeros(len(responses))
        value[usable] = masked(self._scalarizer, ratings[usable], weights[usable])
        value[~usable] = value[usable].mean()
        return value[:, None]

    def ratings(self, prompts: Sequence[list[Message]], responses: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, K) in [−1, 1] and the weights (B, K), K of the longest rubric: NaN where a row has no such criterion, and
        in a row without a usable answer.

        Raises:
            UserError: a prompt without a rubric; too many answers that are not usable.
        """
        rubrics = [self._rubrics.of(messages) for messages in prompts]
        asked = [
            Checklist.of(messages, text, rubric.criteria)
            for messages, text, rubric in zip(prompts, responses, rubrics, strict=True)
        ]
        found = self._ask({row.id: row for row in asked})
        invalid = [row.id for row in asked if not found[row.id].valid]
        self._count.update(ratings=sum(len(row.criteria) for row in asked), invalid=len(invalid))
        if len(invalid) == len(asked) or len(invalid) > self._settings.max_invalid * len(asked):
            reasons = Counter(found[id].reason for id in invalid).most_common(3)
            raise UserError(
                f"{self._key}: {len(invalid)} of {len(asked)} answers by {self._rater.name} are not usable "
                f"({', '.join(f'{n} × {reason}' for reason, n in reasons)}); {self._key}.max_invalid="
                f"{self._settings.max_invalid:g} allows fewer. What was answered is kept. "
                "Try another model, or raise the limit."
            )
        longest = max(len(rubric.criteria) for rubric in rubrics)
        scores, weights = torch.full((len(asked), longest), torch.nan), torch.zeros(len(asked), longest)
        for row, (one, rubric) in enumerate(zip(asked, rubrics, strict=True)):
            weights[row, : len(rubric.weights)] = torch.tensor(rubric.weights)
            if found[one.id].valid:
                scores[row, : len(rubric.weights)] = torch.tensor(found[one.id].scores)
        return scores, weights

    def take_facts(self) -> Mapping[str, float]:
        """Ratings, unusable answers, and what they cost."""
        counted, self._count = self._count, Counter()
        return dict.fromkeys(("ratings", "invalid", *COSTS), 0.0) | counted

    def _ask(self, wanted: Mapping[str, Checklist]) -> dict[str, Ratings]:
        found: dict[str, Ratings] = {}
        for attempt in range(self._settings.asks):
            missing = [
                replace(row, attempt=attempt) for id, row in wanted.items() if id not in found or not found[id].valid
            ]
            if not missing:
                break
            try:
                for row, ratings in self._rater.judge(missing):
                    found[row.id] = ratings
                    self._count.update({kind: getattr(ratings, kind) for kind in COSTS})
            except (UserError, MachineError) as error:
                raise at_home(error, f"{self._key}.engine" if self._settings.engine else "feedback") from None
        return found
