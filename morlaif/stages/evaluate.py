"""Stage `evaluate`: how far the preference models, the objectives and the policies got, with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from morlaif.data.records import Message, Pair, load_pairs, load_split, prompt_id
from morlaif.errors import UserError
from morlaif.evaluation import pairs as held_out
from morlaif.evaluation.judges import EngineJudge, Judge, Score, ScoreJudge, TruthJudge, true_scores
from morlaif.evaluation.policies import Responses, respond
from morlaif.evaluation.preferences import change
from morlaif.evaluation.settings import EvalSettings, OpenAIJudge, PMJudge, RulesJudge
from morlaif.evaluation.statistics import Array, win_rate
from morlaif.feedback.aggregate import label_report
from morlaif.feedback.records import load_verdicts
from morlaif.models.load import resolve_model
from morlaif.models.respond import source_pairs
from morlaif.preference.bank import PreferenceBank
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.job import Job

SINGLE, GOLD, SFT = "single", "gold", "sft"


def build(job: Job) -> dict[str, Any]:
    settings: EvalSettings = job.config["eval"]
    arms = list(job.config["arms"])
    principles = {getattr(p, "name", p): tuple(getattr(p, "covers", (p,))) for p in job.config["principles"]}
    truth = principles if isinstance(settings.judge, RulesJudge) else None
    resampling = {"seed": job.seed, "resamples": settings.resamples, "confidence": settings.confidence}

    # 1. the preference models (none, where a judge or a function is the reward), and the objectives over them
    names = [name for name in (*principles, SINGLE) if f"pm/{name}" in job.inputs]
    score = _scorer(job, names)
    objectives = {arm: objective for arm in arms if (objective := _objective(job, arm, names)) is not None}

    # 2. what each policy answers; what the preference models and the world think of it
    prompts = _prompts(job, settings.prompts)
    folders = {SFT: job.inputs["sft"]} | {arm: job.inputs[f"ppo/{arm}"] for arm in arms}
    steps = len(folders) + 2
    responses: dict[str, Responses] = {}
    scores: dict[str, Array] = {}
    true: dict[str, Array] = {}
    for step, (policy, folder) in enumerate(folders.items()):
        answers = respond(folder, prompts, settings, seed=job.seed, device=job.device, dtype=job.dtype)
        responses[policy] = answers
        scores[policy] = score(prompts[: settings.scored], answers.texts[: settings.scored])
        if truth:
            true[policy] = true_scores(prompts, answers.texts, truth)
        job.progress(step + 1, steps, tokens=answers.facts()["tokens"])

    # 3. who wins
    judge = _judge(job, settings, truth)
    win_rates = {}
    for first, second in _comparisons(arms):
        verdict = judge.compare(prompts, responses[first].texts, responses[second].texts)
        rate = win_rate(verdict.forward, verdict.backward, verdict.valid, **resampling)
        win_rates[f"{_role(first, arms)}_vs_{_role(second, arms)}"] = rate.as_dict()
    job.progress(steps - 1, steps, win_rate=win_rates["policy_vs_sft"]["value"] or 0.0)

    # 4. preference models and objectives on the held-out pairs
    rows = load_pairs(job.inputs["respond"], "eval")[: settings.pairs]
    labels = np.array([_labels(job.inputs[f"feedback/{name}"], rows) for name in names])
    labels = labels.reshape(len(names), len(rows)).T
    pairs = human = held_out.score_pairs(rows, names, score, labels, truth)
    judged = _human_pairs(job)[: settings.pairs]
    if np.isnan(pairs.human).all() and judged:  # sampled responses: the human labels are on the data's own pairs
        human = held_out.score_pairs(judged, names, score, np.full((len(judged), len(names)), np.nan), truth)
    trained = {name: _read(job.inputs[f"pm/{name}"] / "pm.json") for name in names}
    job.progress(steps, steps)

    curve = [json.loads(line) for line in (job.inputs[f"ppo/{arms[0]}"] / "curve.jsonl").read_text().splitlines()]
    results = {
        "pm_accuracy": {name: trained[name]["accuracy"] for name in names if name in principles or len(names) == 1},
        "single_pm_accuracy": trained[SINGLE]["accuracy"] if SINGLE in names else None,
        "pm_truth_accuracy": held_out.truth_accuracy(pairs, settings.confidence),
        "objective_accuracy": held_out.objective_accuracy(pairs, human, objectives, settings.confidence),
        "win_rate": win_rates,
        "reward": {"first": curve[0]["reward"], "last": curve[-1]["reward"]},
        "kl": curve[-1]["kl"],
        "length": {_role(policy, arms): answers.facts()["tokens"] for policy, answers in responses.items()},
    }
    compared = {name: job.inputs[f"feedback/{name}"] for name in [n for n in names if n != SINGLE] or names}
    details = {
        "prompts": len(prompts),
        "pairs": len(rows),
        "confidence": settings.confidence,
        "judge": {"source": settings.judge.source, "name": judge.name, "cost": dict(judge.cost)} | _gold(job),
        "principles": list(principles),
        "names": names,
        "arms": arms,
        "responses": {policy: answers.facts() for policy, answers in responses.items()},
        "score_change": {arm: _changes(names, scores, arm, resampling) for arm in arms},
        "true_change": {arm: _changes(truth, true, arm, resampling) for arm in arms} if truth else None,
        "correlation": held_out.correlations(pairs),
        "calibration": held_out.calibrations(pairs),
        "weights": {arm: _read(job.inputs[f"weigh/{arm}"] / "weights.json") for arm in arms},
        "label_quality": {name: _read(job.inputs[f"feedback/{name}"] / "quality.json") for name in names},
        "labels": label_report(compared, job.inputs["respond"], "train") if compared else None,
    }
    _write(job.out / "results.json", results)
    _write(job.out / "details.json", details)
    with (job.out / "samples.jsonl").open("w", encoding="utf-8") as stream:
        for row in _samples(prompts[: settings.samples], responses, scores, true, names, truth):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {name: rate["value"] for name, rate in win_rates.items()}


def _prompts(job: Job, count: int) -> list[list[Message]]:
    """The first `count` different held-out prompts."""
    different = {prompt_id(example.messages): example.messages for example in load_split(job.inputs["data"], "eval")}
    if not different:
        raise UserError("evaluate: the data's split 'eval' is empty; policies are compared on its prompts")
    return list(different.values())[:count]


def _scorer(job: Job, names: Sequence[str]) -> Score:
    """prompts, responses -> raw scores (N, K) of the preference models `names`; K may be 0."""
    if not names:
        return lambda prompts, responses: np.empty((len(responses), 0))
    base = resolve_model(job.inputs["sft"])[0]
    bank = PreferenceBank.load({name: job.inputs[f"pm/{name}"] for name in names}, base, job.device, job.dtype)
    return lambda prompts, responses: bank.score(prompts, responses).double().cpu().numpy()


def _objective(job: Job, arm: str, names: Sequence[str]) -> Callable[[Array], Array] | None:
    """The objective that the policy of `arm` was trained on, as a function of all models' scores: (N, K) -> (N,).

    None where it has columns that are not preference models'.
    """
    weights = job.inputs[f"weigh/{arm}"] / "weights.json"
    if not set(_read(weights)["names"]) <= set(names):
        return None
    if arm == SINGLE:  # one score: its sum is itself
        objective = Objective.load(weights, lambda weighted: weighted.sum(-1))
    else:
        own = _read(weights)["names"]
        objective = Objective.load(weights, resolve(job.config["scalarizer"], own))
    if objective.stateful:  # judged as it stood when training ended
        objective.load_state_dict(_read(job.inputs[f"ppo/{arm}"] / "objective.json"))
    columns = [names.index(name) for name in objective.names]
    return lambda scores: objective(torch.from_numpy(scores[:, columns])).double().numpy()


def _judge(job: Job, settings: EvalSettings, truth: Mapping[str, Sequence[str]] | None) -> Judge:
    match settings.judge:
        case RulesJudge():
            return TruthJudge(truth)
        case PMJudge():
            gold = _scorer(job, [GOLD])
            return ScoreJudge(lambda prompts, responses: gold(prompts, responses)[:, 0])
        case OpenAIJudge():
            return EngineJudge(settings.judge, ledger=job.ledger, seed=job.seed, on_progress=job.progress)


def _comparisons(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Every arm against SFT, and every other arm against the baseline."""
    return [(arm, SFT) for arm in arms] + [(arm, SINGLE) for arm in arms if SINGLE in arms and arm != SINGLE]


def _role(policy: str, arms: Sequence[str]) -> str:
    """Results call the first arm `policy`, so that runs of different arms have the same keys."""
    return "policy" if policy == arms[0] else policy


def _labels(folder: Path, pairs: Sequence[Pair]) -> list[float]:
    """The judge's probability that the first response is better, for each of `pairs`; NaN without a valid verdict."""
    known = {verdict.pair_id: verdict.p_first for verdict in load_verdicts(folder, "eval") if verdict.valid}
    return [known.get(pair.id, np.nan) for pair in pairs]


def _human_pairs(job: Job) -> list[Pair]:
    """The data's own held-out pairs, where it has any."""
    examples = load_split(job.inputs["data"], "eval")
    return source_pairs([e for e in examples if e.chosen is not None and e.rejected is not None]).pairs


def _changes(names: Sequence[str], scores: Mapping[str, Array], arm: str, how: Mapping[str, Any]) -> dict[str, Any]:
    moved = change(scores[SFT], scores[arm], **how)
    return {name: interval.as_dict() for name, interval in zip(names, moved, strict=True)}


def _gold(job: Job) -> dict[str, Any]:
    """How good the judge itself is, where it is a preference model: its accuracy on pairs it was not trained on."""
    return {"accuracy": _read(job.inputs[f"pm/{GOLD}"] / "pm.json")["accuracy"]} if f"pm/{GOLD}" in job.inputs else {}


def _samples(
    prompts: Sequence[list[Message]],
    responses: Mapping[str, Responses],
    scores: Mapping[str, Array],
    true: Mapping[str, Array],
    names: Sequence[str],
    truth: Mapping[str, Sequence[str]] | None,
) -> list[dict[str, Any]]:
    """One row for each prompt, with every policy's response. Scores are in deviations of the SFT policy's responses."""
    spread = scores[SFT].std(axis=0)
    unit = np.where(spread > 0, spread, 1.0)
    rows = []
    for i, messages in enumerate(prompts):
        answers = {}
        for policy, response in responses.items():
            relative = ((scores[policy][i] - scores[SFT].mean(axis=0)) / unit).round(3).tolist()
            answers[policy] = {
                "text": response.texts[i],
                "tokens": response.lengths[i],
                "scores": dict(zip(names, relative, strict=True)),
                "truth": dict(zip(truth, true[policy][i].tolist(), strict=True)) if truth else None,
            }
        rows.append({"prompt_id": prompt_id(messages), "messages": messages, "responses": answers})
    return rows


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
