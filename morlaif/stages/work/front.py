"""Stage `front`: what one way to policies for many weights reaches at each point of a grid, with intervals."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.records import Message, different_prompts, load_split, prompt_id
from morlaif.errors import Damaged, UserError
from morlaif.evaluation import results, wins
from morlaif.evaluation.fronts import FRONT, GRID, FrontCost, FrontPoint, WayFront, front_of
from morlaif.evaluation.judges import Score, true_scores
from morlaif.evaluation.policies import ANSWERS, PolicyResponses, kept_answers, leave_answers, respond
from morlaif.evaluation.results import SFT, Estimate
from morlaif.evaluation.wins import Contest
from morlaif.files import read_json
from morlaif.stages.evaluate import STAGE as EVALUATE
from morlaif.stages.front import FrontJob
from morlaif.stages.work.judges import policy_judge, scorer
from morlaif.stages.work.places import policy_of
from morlaif.stages.work.policies import write_lines
from morlaif.statistics import Array, Resampling, bootstrap_mean
from morlaif.steer.conditioning import Steering, read_steering
from morlaif.steer.front import spread
from morlaif.steer.simplex import weights
from morlaif.steer.soup import merge_by
from morlaif.units.unit import seed_of

PREFIX = "front-"  # of the policies that the plan has made for a front
Load = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
Prompts = Sequence[list[Message]]


@dataclass(frozen=True)
class _Placed:
    """Answers to N prompts, and what is thought of them by principle (N, K)."""

    responses: PolicyResponses
    models: Array  # raw scores of the preference models
    true: Array | None


def build(job: FrontJob) -> dict[str, Any]:
    reads = job.reads
    prompts = list(different_prompts(load_split(job.needs.data, "eval"))[: reads.answers.prompts])
    if not prompts:
        raise UserError("front: the data's split 'eval' is empty; policies are compared on its prompts")

    # 1. what SFT and each point's policy answer, and what the preference models and the world think of it
    score = scorer(job, {name: job.needs.pm[name] for name in reads.models})
    base = _placed(job, prompts, SFT, partial(policy_of, job), score)
    job.progress(1, len(reads.points) + 2)
    placed = {}
    for step, name in enumerate(reads.points, 2):
        placed[name] = _placed(job, prompts, name, partial(_policy, job, name), score)
        job.progress(step, len(reads.points) + 2, tokens=placed[name].responses.facts().tokens)

    # 2. who wins over SFT
    how = Resampling(seed=job.seed, resamples=reads.resamples, confidence=reads.confidence)
    judge = policy_judge(job, reads.judge)
    texts = {SFT: base.responses.texts} | {name: one.responses.texts for name, one in placed.items()}
    won = wins.judge_all(judge, prompts, texts, [(name, SFT) for name in placed], **how)

    # 3. the front
    by_models = np.stack([_changes(job, base.models, one.models) for one in placed.values()])
    by_truth = None
    if base.true is not None:
        by_truth = np.stack([_changes(job, base.true, one.true) for one in placed.values() if one.true is not None])
    values = by_models if by_truth is None else by_truth
    points = [
        _point(job, name, placed[name], won[name, SFT], values[k], by_models[k], how) for k, name in enumerate(placed)
    ]
    nothing = Estimate(None, None, None, 0)
    started = WayFront(
        reads.way, {name: list(own) for name, own in reads.objectives.items()},
        "models" if by_truth is None else "truth", reads.reference, points, _raw(job, base),
        nothing, None, None, _cost(job), len(prompts), judge.name,
    )  # fmt: skip
    found = front_of(started, values, np.array([weights(point) for point in reads.points.values()]), **how)
    if ranks.is_first():
        results.save(found, job.out / FRONT)
        write_lines(job.out / GRID, _rows(job, prompts, base, placed, values))
    return {
        "hypervolume": found.hypervolume.value,
        "spacing": found.spacing,
        "dominated": sum(point.dominated for point in found.points),
        "policies": found.cost.policies,
        "ended": float(np.mean([point.ended for point in found.points])),
    }


# --- policies and their answers -------------------------------------------------------------------------------------


def _placed(job: FrontJob, prompts: Prompts, name: str, load: Load, score: Score) -> _Placed:
    """What the policy called `name` answers; what an earlier process had it answer is kept."""
    reads, kept = job.reads, job.keep / f"{name}.jsonl"
    own = job.needs.policies.get(PREFIX + name) if reads.way == "direct" else None
    file = kept if own is None or not (own / ANSWERS).is_file() else own / ANSWERS
    steering = _steering(job) if name != SFT else None
    asked = prompts if steering is None else [steering.told(one, _weights(job, name)) for one in prompts]
    if ranks.on_first(file.is_file):
        answers = ranks.on_first(lambda: kept_answers(file, prompts))
    else:
        seed = seed_of(reads.seed, EVALUATE.name)  # as an evaluation draws: policies share their random numbers
        answers = respond(load, asked, reads.answers, seed=seed, gather=job.hardware.zero.most_gathered)
        ranks.on_first(lambda: leave_answers(kept, prompts, answers))
    true = None
    if reads.truth:
        covers = {principle: reads.covers[principle] for principle in reads.models.values()}
        true = true_scores(prompts, answers.texts, covers)
    return _Placed(answers, score(prompts, answers.texts), true)


def _policy(job: FrontJob, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Of a point: the one that was trained there or for all points, or a merge of the corners, which is gone once it is
    loaded."""
    reads = job.reads
    if reads.way == "direct":
        return policy_of(job, job.needs.policies[PREFIX + name])
    if (steering := _steering(job)) is not None:
        (folder,) = job.needs.policies.values()
        model, tokenizer = policy_of(job, folder)
        return steering.at(model, _weights(job, name)), tokenizer
    assert reads.soup is not None
    corners = [job.needs.policies[PREFIX + objective] for objective in reads.objectives]
    merged = job.keep / "merged"
    point, soup = weights(reads.points[name]), reads.soup

    def merge() -> None:
        shutil.rmtree(merged, ignore_errors=True)
        merge_by(soup, corners, point, merged)

    ranks.on_first(merge)
    made = policy_of(job, merged)
    ranks.barrier()
    ranks.on_first(lambda: shutil.rmtree(merged))
    return made


def _steering(job: FrontJob) -> Steering | None:
    """How the one policy for all weights takes them; None of other ways."""
    if job.reads.way != "conditioned":
        return None
    (folder,) = job.needs.policies.values()
    if (found := read_steering(folder)) is None:
        raise Damaged(f"{folder}: says nothing of the weights that its policy takes")
    return found


def _weights(job: FrontJob, name: str) -> dict[str, float]:
    """Of the principles, at a point."""
    return spread(job.reads.objectives, weights(job.reads.points[name]))


# --- numbers --------------------------------------------------------------------------------------------------------


def _changes(job: FrontJob, before: Array, after: Array) -> Array:
    """(N, objectives) how far each answer lies over SFT's to the same prompt: the mean over an objective's principles
    (columns), each in deviations of SFT's scores."""
    spread = before.std(axis=0)
    changed = (after - before) / np.where(spread > 0, spread, 1.0)
    return _by_objective(job, changed)


def _by_objective(job: FrontJob, scores: Array) -> Array:
    principles = list(job.reads.models.values())
    columns = [[principles.index(name) for name in own] for own in job.reads.objectives.values()]
    return np.stack([scores[:, own].mean(axis=1) for own in columns], axis=1)


def _raw(job: FrontJob, placed: _Placed) -> dict[str, float]:
    """Mean scores by objective, true ones where these are known."""
    means = _by_objective(job, placed.models if placed.true is None else placed.true).mean(axis=0)
    return dict(zip(job.reads.objectives, means.tolist(), strict=True))


def _point(
    job: FrontJob, name: str, placed: _Placed, contest: Contest, values: Array, by_models: Array, how: Resampling
) -> FrontPoint:
    objectives, facts = list(job.reads.objectives), placed.responses.facts()
    place = [Estimate.of(bootstrap_mean(values[:, k], **how)) for k in range(len(objectives))]
    return FrontPoint(
        name=name,
        weights=dict(zip(objectives, weights(job.reads.points[name]), strict=True)),
        place=dict(zip(objectives, place, strict=True)),
        models=dict(zip(objectives, by_models.mean(axis=0).tolist(), strict=True)),
        truth=None if placed.true is None else _raw(job, placed),
        win_rate=contest.rate,
        tokens=facts.tokens,
        ended=facts.ended,
        dominated=False,
        above_chord=None,
    )


def _cost(job: FrontJob) -> FrontCost:
    """Of the policies that were trained for this way."""
    found = [_manifest(folder) for folder in job.needs.policies.values()]
    episodes = [one["summary"]["episodes"] for one in found if "episodes" in one.get("summary", {})]
    seconds = [one["seconds"] for one in found if "seconds" in one]
    return FrontCost(
        policies=len(found),
        episodes=sum(episodes) if len(episodes) == len(found) else None,
        seconds=sum(seconds) if len(seconds) == len(found) else None,
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """What the store wrote down about a unit; empty for a folder that is none of its."""
    file = folder / "manifest.json"
    found: dict[str, Any] = read_json(file, "a manifest", of=dict, failure=Damaged) if file.is_file() else {}
    return found


def _rows(
    job: FrontJob, prompts: Prompts, base: _Placed, placed: Mapping[str, _Placed], values: Array
) -> list[dict[str, Any]]:
    """A row for each prompt: what SFT and each point answer, and where each answer lies."""
    objectives = list(job.reads.objectives)

    def one(k: int, name: str, i: int) -> dict[str, Any]:
        answers, place = placed[name].responses, values[k, i].tolist()
        return {
            "text": answers.texts[i], "tokens": answers.lengths[i],
            "place": dict(zip(objectives, place, strict=True)),
        }  # fmt: skip

    return [
        {
            "prompt_id": prompt_id(messages),
            "messages": messages,
            "sft": base.responses.texts[i],
            "points": {name: one(k, name, i) for k, name in enumerate(placed)},
        }
        for i, messages in enumerate(prompts)
    ]
