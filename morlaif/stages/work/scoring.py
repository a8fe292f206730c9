"""The reward of an arm, opened for the stages that score responses with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from morlaif import ranks
from morlaif.data.records import Message, load_split
from morlaif.errors import Damaged, UserError
from morlaif.files import read_json
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.model import pad_batch, pooled_states, tokenize
from morlaif.preference.scoring import length_buckets, tokens_at_once
from morlaif.preference.sets import Ask
from morlaif.reward.cascade import CascadeScores, Scale
from morlaif.reward.discriminator import Encode
from morlaif.reward.sources import RewardSource, SideBySide, open_reward
from morlaif.stages.work.places import bank_of, judge_of, policy_of
from morlaif.units.job import Job


def open_scores(job: Job[Any, Any], shared: PreTrainedModel | None = None) -> RewardSource:
    """The scores that the unit's policy is trained on, a column for each of its `names`; the job reads `ScoringReads`.

    `shared`: a network in memory on whose tensors adapters that were trained on the same weights score.
    """

    def models(names: Sequence[str], asked: Mapping[str, Ask]) -> PreferenceBank:
        needed = dict.fromkeys(one for name in names for one in (asked[name].models if name in asked else (name,)))
        return bank_of(job, {name: job.needs.pm[name] for name in needed}, shared, asked, names)

    return open_reward(
        job.reads.layout,
        models=models,
        criteria={criterion.name: criterion for criterion in job.reads.criteria or ()},
        feedback=job.reads.feedback,
        settled=partial(judge_of, job),
        ledger=job.ledger,
        imitated=partial(_imitated, job),
        scale=_scale(job),
    )


def _imitated(job: Job[Any, Any], count: int, max_length: int) -> tuple[Encode, Sequence[list[Message]], list[str]]:
    """What a discriminator reads with, and the demonstrations: prompts and texts.

    Raises:
        UserError: several ranks would each fit one of their own.
    """
    if ranks.count() > 1:
        raise UserError("reward.kind=discriminator: is fitted in one process; use hardware.strategy=single")
    model, tokenizer = policy_of(job)
    shown = [row for row in load_split(job.needs.data, "train") if row.demonstration is not None][:count]

    @torch.no_grad()
    def encode(prompts: Sequence[list[Message]], texts: Sequence[str]) -> Tensor:
        rows = [tokenize(tokenizer, *row, max_length) for row in zip(prompts, texts, strict=True)]
        states = torch.zeros(len(rows), model.config.get_text_config().hidden_size, device=job.device)
        for bucket in length_buckets([len(row.ids) for row in rows], tokens_at_once(job.device.type == "cuda", 1)):
            batch = pad_batch([rows[i] for i in bucket], tokenizer.pad_token_id, job.device)
            states[torch.tensor(bucket, device=job.device)] = pooled_states(model, batch, "mean").float()
        return states

    return encode, [row.messages for row in shown], [str(row.demonstration) for row in shown]


def _scale(job: Job[Any, Any]) -> Scale | None:
    """Of a cascade, as the unit `weigh` found it, where the job comes after that."""
    weigh = getattr(job.needs, "weigh", None)
    if weigh is None:
        return None
    found: Scale | None = read_json(weigh / "weights.json", failure=Damaged).get(CASCADE)
    return found


CASCADE = "cascade"  # in weights.json: what puts a judge's ratings on the scale of the models


class SharedSource:
    """A source of which each rank asks for its share of the rows; all get all scores."""

    def __init__(self, source: RewardSource) -> None:
        self.names, self._source = source.names, source

    def __call__(self, prompts: Sequence[list[Message]], responses: Sequence[str]) -> Tensor:
        return ranks.mapped(self._source, prompts, responses, mistake=UserError)

    def calibrate(self, prompts: Sequence[list[Message]], responses: Sequence[str]) -> dict[str, list[float]] | None:
        """Of the cascades among its parts, by column."""
        parts = self._source.sources if isinstance(self._source, SideBySide) else [self._source]
        found = [part.calibrate(prompts, responses) for part in parts if isinstance(part, CascadeScores)]
        return {name: scale for one in found for name, scale in one.items()} if found else None

    def take_facts(self) -> Mapping[str, float]:
        return ranks.added(dict(self._source.take_facts()))
