"""Stage `weigh`: the frozen mean and scale of each column of the reward, and the weight of each principle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Example, Message, Pair, load_pairs, load_split
from morlaif.errors import UserError
from morlaif.evaluation.preferences import pair_accuracy
from morlaif.models.ends import Ends
from morlaif.models.generate import generate
from morlaif.naming import WHOLE, labelled_by
from morlaif.reward.sources import RewardSource
from morlaif.rl.scores import check_scores
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.settings import WeightsSettings
from morlaif.scalarize.weights import frozen_statistics, regress, signed, unit
from morlaif.stages.weigh import WeighJob
from morlaif.stages.work.places import policy_of
from morlaif.stages.work.scoring import CASCADE, SharedSource, open_scores


def build(job: WeighJob) -> dict[str, Any]:
    settings: WeightsSettings = job.reads.weights
    names = list(job.reads.names)
    score = SharedSource(open_scores(job))

    # 1. frozen statistics on responses of the SFT model
    prompts, responses, source = _sft_responses(job, settings)
    scored = score(prompts, responses)
    check_scores(scored, names, responses, 0, allow_constant=True)
    scores = scored.double().cpu().numpy()
    mean, scale = frozen_statistics(scores, names)
    job.progress(1, 2, responses=float(len(responses)))

    # 2. weights, signed, of scores normalised by that scale
    details: dict[str, Any] = {"method": settings.method, "responses_from": source}
    if (common := score.calibrate(prompts, responses)) is not None:
        details[CASCADE] = common
    zero = settings.zeroed(names)
    mixed = np.array([column.weight for column in job.reads.layout.columns])  # of the parts of a mixture
    if labelled_by(names[0]) in WHOLE.values() or settings.method == "equal":
        weights = np.ones(len(names))
    elif settings.method == "given":
        weights = np.array(settings.given(names))
    else:
        raw, ends, details["regression"] = _regressed(job, settings, score, zero)
        factor = unit(raw, scale, names, zero)
        if settings.normalizer == "none":  # scores that keep their unit take their deviation into the weight
            factor = factor / scale
        weights = raw * factor
        details["interval"] = {
            name: (ends[k] * factor[k] * mixed[k]).tolist() for k, name in enumerate(names) if name not in zero
        }  # of direction * weight; the common unit, which the fit also gives, is taken as known
    direction, weight = signed(weights, names, zero)
    weight = weight * mixed

    if settings.normalizer == "none":
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    mean_, scale_, direction_, weight_ = (
        torch.tensor(value, dtype=torch.float32) for value in (mean, scale, direction, weight)
    )
    objective = Objective(
        tuple(names), mean_, scale_, direction_, weight_, linear,
        normalizer=settings.normalizer, responses=len(responses),
        sft_scores=torch.tensor(scores, dtype=torch.float32) if job.reads.sft_scores else None,
    )  # fmt: skip
    if counted := score.take_facts():
        details["ratings"] = dict(counted)
    ranks.on_first(lambda: objective.save(job.out / "weights.json", **details))
    job.progress(2, 2)
    return {f"weight/{name}": float(d * w) for name, d, w in zip(names, direction, weight, strict=True)}


def _sft_responses(job: WeighJob, settings: WeightsSettings) -> tuple[list[list[Message]], list[str], str]:
    """Prompts, responses of the SFT model, and where these come from: the `respond` artifact if it sampled them."""
    pairs = load_pairs(job.needs.respond, "train")
    if pairs and all(pair.human is None for pair in pairs):
        every = ((pair.messages, text) for pair in pairs for text in (pair.first, pair.second))
        rows = list(islice(every, settings.prompts))
        if len(rows) >= 2:
            return [messages for messages, _ in rows], [text for _, text in rows], "respond"
    examples = load_split(job.needs.data, "train")[: settings.prompts]
    if len(examples) < 2:
        raise UserError("weigh: the data's split 'train' has fewer than two prompts to take statistics from")
    model, tokenizer = policy_of(job)
    ids = generate(
        model, tokenizer, [prompt_ids(tokenizer, example.messages, settings.max_prompt_tokens) for example in examples],
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, batch_size=settings.batch_size,
        generator=torch.Generator().manual_seed(job.seed), gather=job.hardware.zero.most_gathered,
    )  # fmt: skip
    return [example.messages for example in examples], list(map(Ends.of(model, tokenizer).text, ids)), "generated"


def _regressed(
    job: WeighJob, settings: WeightsSettings, score: RewardSource, zero: list[str]
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Coefficients of raw scores (K,), their intervals (K, 2), and the report; zeros for the principles in `zero`."""
    train = list(islice(_labelled(load_split(job.needs.data, "train")), settings.regression_pairs))
    if not train:
        raise UserError("weights=regressed: no row of the data's split 'train' has a human preference to learn from")
    held = list(_labelled(load_split(job.needs.data, "eval")))
    names = list(score.names)
    kept = np.array([name not in zero for name in names])
    difference, label = _differences(score, train)
    fit = regress(difference[:, kept], label, [name for name in names if name not in zero], settings.significance)
    raw, ends = np.zeros(len(names)), np.zeros((len(names), 2))
    raw[kept], ends[kept] = fit.raw, np.column_stack([fit.low, fit.high])
    report = fit.as_dict() | {"accuracy": _accuracy(difference, label, raw)}
    if held:
        report["held_out_accuracy"] = _accuracy(*_differences(score, held), raw)
    return raw, ends, report


def _accuracy(difference: np.ndarray, label: np.ndarray, raw: np.ndarray) -> dict[str, Any]:
    """How often Σ b_k d_k has the sign that the human label has."""
    return pair_accuracy(difference @ raw, label).as_dict()


def _labelled(examples: Iterable[Example]) -> Iterator[Pair]:
    """Pairs of the examples that have a human preference; their order comes from their hash, so it leaks no label."""
    for example in examples:
        if example.chosen is None or example.rejected is None:
            continue
        if int(example.id, 16) % 2:
            yield Pair.of(example.messages, example.chosen, example.rejected, 1.0)
        else:
            yield Pair.of(example.messages, example.rejected, example.chosen, 0.0)


def _differences(score: RewardSource, pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) raw score of the first minus that of the second, and (N,) the human labels."""
    messages = [pair.messages for pair in pairs]
    first, second = (score(messages, [getattr(pair, side) for pair in pairs]) for side in ("first", "second"))
    return (first - second).double().cpu().numpy(), np.array([pair.human for pair in pairs], dtype=float)
