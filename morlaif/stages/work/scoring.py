"""The reward of an arm, opened for the stages that score responses with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from morlaif import ranks
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.preference.sets import Ask
from morlaif.reward.sources import RewardSource, open_reward
from morlaif.stages.work.places import bank_of, judge_of
from morlaif.units.job import Job


def open_scores(job: Job[Any, Any], shared: PreTrainedModel | None = None) -> RewardSource:
    """The scores that the unit's policy is trained on, a column for each of its `names`; the job reads `ScoringReads`.

    `shared`: a network in memory on whose tensors adapters that were trained on the same weights score.
    """

    def models(names: Sequence[str], asked: Mapping[str, Ask]) -> Callable[..., Tensor]:
        needed = dict.fromkeys(one for name in names for one in (asked[name].models if name in asked else (name,)))
        return bank_of(job, {name: job.needs.pm[name] for name in needed}, shared, asked, names).score

    return open_reward(
        job.reads.layout,
        models=models,
        criteria={criterion.name: criterion for criterion in job.reads.criteria or ()},
        feedback=job.reads.feedback,
        settled=partial(judge_of, job),
        ledger=job.ledger,
    )


class SharedSource:
    """A source of which each rank asks for its share of the rows; all get all scores."""

    def __init__(self, source: RewardSource) -> None:
        self.names, self._source = source.names, source

    def __call__(self, prompts: Sequence[list[Message]], responses: Sequence[str]) -> Tensor:
        return ranks.mapped(self._source, prompts, responses, mistake=UserError)

    def take_facts(self) -> Mapping[str, float]:
        return ranks.added(dict(self._source.take_facts()))
