"""Preference models first, a judge where their members disagree."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from morlaif.data.records import Message
from morlaif.errors import BudgetSpent, UserError
from morlaif.reward.settings import CascadeReward

log = logging.getLogger("morlaif.reward")
Scale = Mapping[str, Sequence[float]]  # column -> mean and deviation of the models' scores, then of the ratings
Prompts = Sequence[list[Message]]
Responses = Sequence[str]


class Bank(Protocol):
    """Preference models of some columns."""

    def score(self, prompts: Prompts, responses: Responses) -> Tensor:
        """(B, K)"""

    def deviation(self, prompts: Prompts, responses: Responses) -> Tensor:
        """(B, K) between the members of each; NaN where a model has none."""


class Rates(Protocol):
    """A judge that rates responses one by one."""

    def rate(self, cells: Sequence[tuple[list[Message], str, str]]) -> list[float | None]:
        """Ratings in [−1, 1] of (prompt, response, column); None where none was usable."""

    def take_facts(self) -> Mapping[str, float]: ...


class CascadeScores:
    """Scores of models, with a judge's rating in place of those on which the members are far apart.

    A rating is put on the scale of its column's models by the means and deviations of both on the same responses
    (`calibrate`, once, of responses of the SFT policy). Until that is known the models score alone, which their frozen
    statistics are taken from. When the judge's budget is spent the models go on alone; what was not asked is counted.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        bank: Bank,
        judge: Rates,
        settings: CascadeReward,
        scale: Scale | None,
        key: str = "reward",
    ) -> None:
        """`key`: of `settings` in the config, for messages."""
        self._key = key
        self.names, self._bank, self._judge, self._settings, self._scale = names, bank, judge, settings, scale
        self._count: Counter[str] = Counter()
        self._told = False

    def __call__(self, prompts: Prompts, responses: Responses) -> Tensor:
        scores = self._bank.score(prompts, responses).float().cpu()
        if self._scale is None:
            return scores
        asked = self._doubted(self._bank.deviation(prompts, responses).float().cpu())
        cells = [(row, column) for row, column in asked.nonzero().tolist()]
        self._count.update(scored=scores.numel(), doubted=len(cells))
        for (row, column), rating in zip(cells, self._rated(prompts, responses, cells), strict=True):
            if rating is not None:
                mean, deviation, centre, spread = self._scale[self.names[column]]
                scores[row, column] = mean + deviation * (rating - centre) / spread
                self._count["asked"] += 1
        return scores

    def calibrate(self, prompts: Prompts, responses: Responses) -> dict[str, list[float]]:
        """The scale, from responses that models and judge both score.

        Raises:
            UserError: the judge rates all of them alike under some principle, or the models have no members.
        """
        prompts, responses = prompts[: self._settings.reference], responses[: self._settings.reference]
        apart = self._bank.deviation(prompts, responses)
        if apart.isnan().any():
            name = self.names[int(apart.isnan().any(0).nonzero()[0])]
            raise UserError(
                f"{self._key}: the preference model of '{name}' has no members that could disagree; use pm=ensemble"
            )
        scores = self._bank.score(prompts, responses).double().cpu()
        cells = [
            (messages, text, name) for messages, text in zip(prompts, responses, strict=True) for name in self.names
        ]
        given = [float("nan") if one is None else one for one in self._judge.rate(cells)]
        ratings = torch.tensor(given, dtype=torch.float64).view(len(prompts), -1)
        scale = {}
        for k, name in enumerate(self.names):
            usable = ~ratings[:, k].isnan()
            rated, scored = ratings[usable, k], scores[usable, k]
            if len(rated) < 2 or rated.std(correction=0) < 1e-8:
                raise UserError(
                    f"{self._key}: of {len(prompts)} responses the judge rates all {len(rated)} alike under "
                    f"'{name}', so that its ratings cannot be put on the models' scale: give a larger "
                    f"{self._key}.reference, or leave the principle out"
                )
            parts = (scored.mean(), scored.std(correction=0), rated.mean(), rated.std(correction=0))
            scale[name] = [float(part) for part in parts]
        return scale

    def take_facts(self) -> Mapping[str, float]:
        """Scores, those on which members disagree, those that the judge gave; and what the judge counted."""
        counted, self._count = self._count, Counter()
        return {**dict.fromkeys(("scored", "doubted", "asked"), 0.0), **counted, **self._judge.take_facts()}

    def _doubted(self, apart: Tensor) -> Tensor:
        """(B, K) where the judge is asked: above so many deviations of a column's scores, or a batch's top share."""
        assert self._scale is not None
        unit = torch.tensor([max(self._scale[name][1], 1e-8) for name in self.names])
        apart = apart / unit
        if self._settings.above is not None:
            return apart > self._settings.above
        most = round((self._settings.share or 0.0) * apart.numel())
        asked = torch.zeros(apart.numel(), dtype=torch.bool)
        asked[apart.flatten().argsort(descending=True, stable=True)[:most]] = True
        return asked.view_as(apart)

    def _rated(
        self, prompts: Prompts, responses: Responses, cells: Sequence[tuple[int, int]]
    ) -> Sequence[float | None]:
        if not cells:
            return []
        try:
            return self._judge.rate([(prompts[row], responses[row], self.names[column]) for row, column in cells])
        except BudgetSpent as error:
            if not self._told:
                log.warning("%s The preference models go on without the judge.", str(error).partition(". ")[0] + ".")
            self._told = True
            return [None] * len(cells)
