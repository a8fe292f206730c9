"""Stage `evaluate`: how far the preference models, the objectives and the policies got, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from morlaif import ranks
from morlaif.data.records import Message, Pair, load_pairs, load_split, prompt_id
from morlaif.errors import Damaged, UserError
from morlaif.evaluation import budget, overview, regression, wins
from morlaif.evaluation import pairs as held_out
from morlaif.evaluation.judges import EngineJudge, Judge, Score, ScoreJudge, TruthJudge, true_scores
from morlaif.evaluation.objectives import as_function
from morlaif.evaluation.outside import load_outside
from morlaif.evaluation.policies import Answers, relative_rows, respond, response_rows
from morlaif.evaluation.rewardbench import read_bench
from morlaif.evaluation.settings import EvalSettings, HfJudge, OpenAIJudge, PMJudge, RulesJudge
from morlaif.feedback.aggregate import label_report
from morlaif.feedback.records import load_verdicts
from morlaif.files import read_json, read_json_lines
from morlaif.models.respond import source_pairs
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.evaluate import EvaluateJob
from morlaif.stages.work.places import bank_of, policy_of
from morlaif.statistics import Array

MULTI, SINGLE, GOLD, SFT = "multi", "single", "gold", "sft"


def build(job: EvaluateJob) -> dict[str, Any]:
    settings: EvalSettings = job.reads.eval
    arms, others = list(job.reads.arms), dict(settings.policies)
    principles = {getattr(p, "name", p): tuple(getattr(p, "covers", (p,))) for p in job.reads.principles}
    truth = principles if isinstance(settings.judge, RulesJudge) else None
    gather = job.hardware.zero.most_gathered
    how = {"seed": job.seed, "resamples": settings.resamples, "confidence": settings.confidence}

    # 1. the preference models, and the objectives that are made of them alone
    names = [name for name in (*principles, SINGLE) if name in job.needs.pm]
    score = _scorer(job, names)
    objectives = {arm: made for arm in arms if (made := _objective(job, arm, names)) is not None}

    # 2. what each policy answers; what the preference models and the world think of it
    prompts = _prompts(job, settings.prompts)
    policies = {SFT: job.needs.sft} | {arm: job.needs.ppo[arm] for arm in arms} | others
    steps = len(policies) + 2
    answers: dict[str, Answers] = {}
    for step, (policy, where) in enumerate(policies.items()):
        if isinstance(where, str):
            trusted = policy in settings.trust_remote_code
            load = partial(load_outside, policy, where, trusted, dtype=job.dtype, device=job.device)
        else:
            load = partial(policy_of, job, where)
        made = respond(load, prompts, settings, seed=job.seed, gather=gather)
        scored = score(prompts[: settings.scored], made.texts[: settings.scored])
        true = true_scores(prompts, made.texts, truth) if truth else None
        answers[policy] = Answers(made, scored, true)
        job.progress(step + 1, steps, tokens=made.facts()["tokens"])

    # 3. who wins
    judge = _judge(job, settings, truth)
    texts = {policy: one.responses.texts for policy, one in answers.items()}
    compared = wins.compare(judge, prompts, texts, wins.comparisons(arms, list(others)), **how)
    rates = {f"{_role(a, arms)}_vs_{_role(b, arms)}": one for (a, b), one in compared.items()}
    job.progress(steps - 1, steps, win_rate=rates["policy_vs_sft"].rate.rate.as_dict()["value"] or 0.0)

    # 4. preference models and objectives on the held-out pairs, and on a benchmark
    pairs, human = _held_out(job, settings, names, score, truth)
    kinds = held_out.standards(pairs, human)
    as_functions = {arm: as_function(objective, names) for arm, objective in objectives.items()}
    trained = {name: _read(job.needs.pm[name] / "pm.json") for name in names}
    curves = {arm: _curve(job, arm) for arm in arms}
    kl = {arm: curve[-1].get("kl") for arm, curve in curves.items()}
    job.progress(steps, steps)

    results = {
        "pm_accuracy": {name: trained[name]["accuracy"] for name in names if name in principles or len(names) == 1},
        "single_pm_accuracy": trained[SINGLE]["accuracy"] if SINGLE in names else None,
        "pm_truth_accuracy": held_out.truth_accuracy(pairs, settings.confidence),
        "objective_accuracy": held_out.objective_accuracy(as_functions, kinds, settings.confidence),
        "win_rate": {key: one.rate.as_dict() for key, one in rates.items()},
        "reward": {"first": curves[arms[0]][0]["reward"], "last": curves[arms[0]][-1]["reward"]},
        "kl": kl[arms[0]],
        "length": {_role(policy, arms): one.responses.facts()["tokens"] for policy, one in answers.items()},
    }
    details = {
        "prompts": len(prompts),
        "pairs": len(pairs.human),
        "confidence": settings.confidence,
        "judge": {"source": settings.judge.source, "name": judge.name, "cost": dict(judge.cost), **_served(judge)}
        | ({"warnings": list(dict.fromkeys(found))} if (found := getattr(judge, "warnings", ())) else {})
        | _gold(job),
        "principles": list(principles),
        "names": names,
        "arms": arms,
        "policies": {name: str(where) for name, where in others.items()},
        "responses": {policy: one.responses.facts() for policy, one in answers.items()},
        "length_controlled": {key: one.controlled.as_dict() for key, one in rates.items()},
        "paired": wins.paired(compared, **how),
        "correlation": held_out.correlations(pairs),
        "cross_accuracy": held_out.cross_accuracy(pairs, settings.confidence),
        "tie_accuracy": held_out.tie_accuracy(pairs, settings.confidence),
        "length_baseline": held_out.length_baseline(kinds, settings.confidence),
        "calibration": held_out.calibrations(pairs),
        "cut": {name: trained[name]["cut"] | {"max_prompt": trained[name]["max_prompt"]} for name in names},
        **overview.of_models(names, kinds, objectives, list(principles), job.reads.scalarizer, settings, job.seed),
        **overview.of_policies(answers, names, list(principles), objectives, compared, kl, settings.reference, **how),
        "rewardbench": _bench(settings, names, score, objectives),
        "regression": _regression(job, human, 1 - settings.confidence),
        "budget": budget.compared({arm: _budget(job, arm, names) for arm in arms}),
        "weights": {arm: _read(job.needs.weigh[arm] / "weights.json") for arm in arms},
        **_labels_of(job, names),
    }
    rows = response_rows(prompts, answers, names, list(principles))
    samples = relative_rows(rows[: settings.samples], answers[SFT].scores, names)
    if ranks.is_first():
        _write(job.out / "results.json", results)
        _write(job.out / "details.json", details)
        _write_lines(job.out / "responses.jsonl", rows)
        _write_lines(job.out / "samples.jsonl", samples)
    return {key: one.rate.rate.as_dict()["value"] for key, one in rates.items()}


def _prompts(job: EvaluateJob, count: int) -> list[list[Message]]:
    """The first `count` different held-out prompts."""
    different = {prompt_id(example.messages): example.messages for example in load_split(job.needs.data, "eval")}
    if not different:
        raise UserError("evaluate: the data's split 'eval' is empty; policies are compared on its prompts")
    return list(different.values())[:count]


def _scorer(job: EvaluateJob, names: Sequence[str]) -> Score:
    """prompts, responses -> raw scores (N, K) of the preference models `names`; of none where a run has none."""
    if not names:
        return lambda prompts, responses: np.zeros((len(responses), 0))
    bank = bank_of(job, {name: job.needs.pm[name] for name in names})

    def score(prompts: Sequence[list[Message]], responses: Sequence[str]) -> Array:
        return ranks.mapped(bank.score, prompts, responses, mistake=UserError).double().cpu().numpy()

    return score


def _objective(job: EvaluateJob, arm: str, names: Sequence[str]) -> Objective | None:
    """What the policy of `arm` was trained on; None where that is more than the preference models `names` can tell: a
    judge's ratings, a function's values."""
    weights = job.needs.weigh[arm] / "weights.json"
    own = _read(weights)["names"]
    if not set(own) <= set(names):
        return None
    # the baseline has one score: its sum is itself
    objective = Objective.load(weights, linear if arm == SINGLE else resolve(job.reads.scalarizer, own))
    if objective.stateful:  # judged as it stood when training ended
        objective.load_state_dict(_read(job.needs.ppo[arm] / "objective.json"))
    return objective


def _served(judge: Judge) -> dict[str, Any]:
    """Which model answered, where a server was asked."""
    served = getattr(judge, "served", None)
    return {"served": dict(served)} if served else {}


def _judge(job: EvaluateJob, settings: EvalSettings, truth: Mapping[str, Sequence[str]] | None) -> Judge:
    match settings.judge:
        case RulesJudge():
            return TruthJudge(truth)
        case PMJudge():
            gold = _scorer(job, [GOLD])
            return ScoreJudge(lambda prompts, responses: gold(prompts, responses)[:, 0])
        case OpenAIJudge() | HfJudge():
            return EngineJudge(settings.judge, ledger=job.ledger, seed=job.seed, on_progress=job.progress)


def _held_out(
    job: EvaluateJob,
    settings: EvalSettings,
    names: Sequence[str],
    score: Score,
    truth: Mapping[str, Sequence[str]] | None,
) -> tuple[held_out.ScoredPairs, held_out.ScoredPairs]:
    """The held-out pairs with their AI labels; and those with human labels, the same where these have them."""
    rows = load_pairs(job.needs.respond, "eval")[: settings.pairs]
    columns = [_labels(job.needs.feedback[name], rows) for name in names]
    pairs = held_out.score_pairs(rows, names, score, np.array(columns).reshape(len(names), len(rows)).T, truth)
    judged = _human_pairs(job)[: settings.pairs]
    if not np.isnan(pairs.human).all() or not judged:
        return pairs, pairs
    # sampled responses: the human labels are on the data's own pairs
    return pairs, held_out.score_pairs(judged, names, score, np.full((len(judged), len(names)), np.nan), truth)


def _labels(folder: Path, pairs: Sequence[Pair]) -> list[float]:
    """The judge's probability that the first response is better, for each of `pairs`; NaN without a valid verdict."""
    known = {verdict.pair_id: verdict.p_first for verdict in load_verdicts(folder, "eval") if verdict.valid}
    return [known.get(pair.id, np.nan) for pair in pairs]


def _human_pairs(job: EvaluateJob) -> list[Pair]:
    """The data's own held-out pairs, where it has any."""
    examples = load_split(job.needs.data, "eval")
    return source_pairs([e for e in examples if e.chosen is not None and e.rejected is not None]).pairs


def _role(policy: str, arms: Sequence[str]) -> str:
    """Results call the first arm `policy`, so that runs of different arms have the same keys."""
    return "policy" if policy == arms[0] else policy


def _curve(job: EvaluateJob, arm: str) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(job.needs.ppo[arm] / "curve.jsonl", failure=Damaged)]


def _bench(
    settings: EvalSettings, names: Sequence[str], score: Score, objectives: Mapping[str, Objective]
) -> dict[str, Any] | None:
    if settings.rewardbench is None or not names:
        return None
    return overview.of_bench(read_bench(Path(settings.rewardbench).expanduser()), names, score, objectives, settings)


def _regression(job: EvaluateJob, human: held_out.ScoredPairs, significance: float) -> dict[str, Any] | None:
    """Of the human label on the models' scores: as the run's weights came from it, else on the held-out pairs."""
    if MULTI in job.needs.weigh:
        weighed = _read(job.needs.weigh[MULTI] / "weights.json")
        if "regression" in weighed:
            return regression.discussed(weighed["regression"], "weights", significance)
    fit = regression.on_held_out(human, significance)
    return fit and regression.discussed(fit, "held-out pairs", significance)


def _budget(job: EvaluateJob, arm: str, names: Sequence[str]) -> dict[str, Any]:
    own = [name for name in names if (name == SINGLE) == (arm == SINGLE)]
    return budget.arm_budget(
        {name: _read(job.needs.pm[name] / "pm.json") for name in own},
        {name: _manifest(job.needs.pm[name]) for name in own},
        {name: _read(job.needs.feedback[name] / "quality.json") for name in own},
        {name: _manifest(job.needs.feedback[name]) for name in own},
        _manifest(job.needs.ppo[arm]),
    )


def _labels_of(job: EvaluateJob, names: Sequence[str]) -> dict[str, Any]:
    """How good the AI labels are, and how those of the principles relate."""
    together = {name: job.needs.feedback[name] for name in [n for n in names if n != SINGLE] or names}
    return {
        "label_quality": {name: _read(job.needs.feedback[name] / "quality.json") for name in names},
        "labels": label_report(together, job.needs.respond, "train"),
    }


def _gold(job: EvaluateJob) -> dict[str, Any]:
    """How good the judge itself is, where it is a preference model: its accuracy on pairs it was not trained on."""
    return {"accuracy": _read(job.needs.pm[GOLD] / "pm.json")["accuracy"]} if GOLD in job.needs.pm else {}


def _manifest(folder: Path) -> dict[str, Any]:
    """What the store wrote down about a unit; empty for a folder that is none of its."""
    return _read(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}


def _read(path: Path) -> Any:
    return read_json(path, failure=Damaged)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
