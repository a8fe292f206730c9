"""Stage `evaluate`: how far the preference models, the objectives and the policies got, with intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message, Pair, different_prompts, load_pairs, load_split
from morlaif.data.spool import Picked
from morlaif.errors import Damaged, UserError
from morlaif.evaluation import budget, checks, kept, overview, regression, results, wins
from morlaif.evaluation import pairs as held_out
from morlaif.evaluation.judges import PolicyJudge, Score, true_scores, utilities
from morlaif.evaluation.objectives import as_function
from morlaif.evaluation.outside import load_outside
from morlaif.evaluation.overview import Scored
from morlaif.evaluation.policies import (
    ANSWERS,
    Answered,
    PolicyResponses,
    kept_answers,
    relative_rows,
    respond,
    response_rows,
)
from morlaif.evaluation.results import SFT, ArmFacts, ArmWeights, Estimate, RunDetails, RunResults
from morlaif.evaluation.rewardbench import read_bench
from morlaif.evaluation.settings import EvalSettings, RulesJudge
from morlaif.evaluation.wins import Contest, Two, versus
from morlaif.evaluation.yardstick import agrees_with_people, yardstick
from morlaif.feedback.aggregate import label_report
from morlaif.feedback.records import load_verdicts
from morlaif.files import read_json, read_json_lines
from morlaif.memory.dimensions import of_path
from morlaif.models.load import load_tokenizer
from morlaif.models.respond import source_pairs
from morlaif.naming import WHOLE, is_own, labelled_by, more_of, own_of
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.stages.evaluate import EvaluateJob
from morlaif.stages.ppo import STAGE as PPO
from morlaif.stages.work.judges import GOLD, policy_judge, scorer
from morlaif.stages.work.places import base_of, pm_base_of, policy_of
from morlaif.statistics import Resampling
from morlaif.steer.conditioning import usual_prompts

Load = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
PAIRS_COUNTED = 64  # whose tokens tell how long pairs are
SINGLE = "single"  # the preference model of the constitution


def build(job: EvaluateJob) -> dict[str, Any]:
    # 1. what is evaluated: arms, their preference models, the objectives that are made of these alone
    run = _run(job)
    score = scorer(job, {name: job.needs.pm[name] for name in run.models.names})

    # 2. what each policy answers, and what the preference models and the world think of it
    prompts = _prompts(job, run.settings.prompts)
    answers = _answers(job, run, prompts, score)

    # 3. who wins
    judge = policy_judge(job, run.settings.judge)
    found = _contests(job, run, judge, prompts, answers)

    rates = _rates(job, run, prompts, answers)

    # 4. preference models and objectives on held-out pairs
    pairs, human = _held_out(job, run, score)
    kinds = held_out.standards(pairs, human)
    job.progress(run.steps, run.steps)

    # 5. the numbers
    measure = _yardstick(job, run, judge, prompts)
    headlines = _results(job, run, answers, found, pairs, kinds, measure)
    details = RunDetails(
        prompts=len(prompts),
        pairs=len(pairs.human),
        confidence=run.settings.confidence,
        judge=_judge_facts(job, run, judge),
        names=list(run.models.names),
        principles=list(run.principles),
        arms=dict(run.arms),
        policies=dict(run.settings.policies),
        rates=rates,
        **_of_policies(run, answers, found),
        **_of_models(job, run, pairs, human, kinds, score),
        **_of_labels(job, run, headlines),
        kept=_kept(job, run, judge, prompts, answers, score),
    )

    # 6. the files
    rows = response_rows(prompts, answers, run.models.names, list(run.principles))
    if ranks.is_first():
        results.save(headlines, job.out / "results.json")
        results.save(details, job.out / "details.json")
        _write_lines(job.out / "responses.jsonl", rows)
        shown = relative_rows(rows[: run.settings.samples], answers[SFT].scores, run.models.names)
        _write_lines(job.out / "samples.jsonl", shown)
    ended = {f"ended/{policy}": facts.ended for policy, facts in details.responses.items()}
    return {key: rate.value for key, rate in headlines.win_rate.items()} | ended


# --- what is evaluated ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    settings: EvalSettings
    scalarizer: ScalarizerSettings  # of `models.combined`
    arms: Mapping[str, ArmFacts]  # the first is the run's policy
    principles: Mapping[str, tuple[str, ...]]  # and what each covers in a world of known truth
    models: Scored
    curves: Mapping[str, list[dict[str, Any]]]  # a row for each step of each arm's training
    how: Resampling

    @property
    def policy(self) -> str:
        return next(iter(self.arms))

    @property
    def truth(self) -> Mapping[str, Sequence[str]] | None:
        return self.principles if isinstance(self.settings.judge, RulesJudge) else None

    @property
    def kl(self) -> dict[str, float | None]:
        return {arm: curve[-1].get("kl") for arm, curve in self.curves.items()}

    @property
    def steps(self) -> int:
        """Of progress: a policy's answers each, the judge, the rest."""
        return 1 + len(self.arms) + len(self.settings.policies) + 2


def _run(job: EvaluateJob) -> _Run:
    settings: EvalSettings = job.reads.eval
    principles = {principle.name: principle.covers for principle in job.reads.principles}
    curves = {arm.name: _curve(job, arm.name) for arm in job.reads.arms}
    bounds = {name: bool(curve[-1].get("kl_bound")) for name, curve in curves.items()}
    arms = {name: replace(arm, kl_bound=bounds[name]) for name, arm in _arms(job, list(principles)).items()}
    known = dict.fromkeys([*principles, *WHOLE.values(), *(model for arm in arms.values() for model in arm.models)])
    names = [name for name in known if name in job.needs.pm]
    objectives = {name: made for name in arms if (made := _objective(job, name, arms[name], names)) is not None}
    combining = [name for name, arm in arms.items() if arm.of_principles and name in objectives]
    combined = min(combining, key=lambda name: bool(objectives[name].models), default=None)  # rather of shared models
    return _Run(
        settings,
        _scalarizer(job, combined),
        arms,
        principles,
        Scored(names, list(principles), objectives, objectives.get(combined or "")),
        curves=curves,
        how=Resampling(seed=job.seed, resamples=settings.resamples, confidence=settings.confidence),
    )


def _scalarizer(job: EvaluateJob, arm: str | None) -> ScalarizerSettings:
    """Of an arm's objective; the run's where the arm has none of its own."""
    own = next((one.scalarizer for one in job.reads.arms if one.name == arm), None)
    return own or job.reads.scalarizer


def _arms(job: EvaluateJob, principles: Sequence[str]) -> dict[str, ArmFacts]:
    """What each arm of the run is, by its name."""
    made = {}
    several = sum(arm.labels not in WHOLE for arm in job.reads.arms) > 1
    for arm in job.reads.arms:
        models = [name for name in arm.models if name in job.needs.pm]
        whole = "single PM" if models else "single rating"
        by = _scalarizer(job, arm.name).name.replace("_", "-")
        if several and _weights(job, arm.name).get("method") == "regressed":
            by += ", regressed weights"
        more = next((f", {found}" for model in models if (found := more_of(model))), "")
        usual = f"{whole}{more}" if arm.labels in WHOLE else by
        if arm.method != PPO.name:
            usual += f", {arm.method.replace('_', '-')}"
        made[arm.name] = ArmFacts(arm.labels, models, arm.title or usual, arm.method)
    titles = Counter(facts.title for facts in made.values())
    for name, facts in list(made.items())[1:]:
        if titles[facts.title] > 1:
            made[name] = replace(facts, title=f"{facts.title} ({name.replace('_', ' ')})")
    return made


def _objective(job: EvaluateJob, name: str, arm: ArmFacts, models: Sequence[str]) -> Objective | None:
    """What the policy of the arm was trained on; None where that is more than the preference models `models` can say:
    a judge's ratings, a function's values."""
    if name not in job.needs.weigh:  # it has no reward
        return None
    weights = job.needs.weigh[name] / "weights.json"
    own = _read(weights)["names"]
    columns = tuple(own_of(one, name) if own_of(one, name) in models else one for one in own)
    if not set(columns) <= set(models):
        return None
    # of one score for the whole, the sum is itself
    objective = Objective.load(weights, resolve(_scalarizer(job, name), own) if arm.of_principles else linear)
    if columns != tuple(own):
        objective = replace(objective, models=columns)
    if objective.stateful:  # judged as it was when training ended; a method that never asks it leaves it as it began
        learnt = job.needs.policies[name] / "objective.json"
        if arm.method == PPO.name or learnt.is_file():
            objective.load_state_dict(_read(learnt))
    return objective


def _weights(job: EvaluateJob, arm: str) -> dict[str, Any]:
    """What `weigh` found; nothing for an arm without a reward."""
    found: dict[str, Any] = _read(job.needs.weigh[arm] / "weights.json") if arm in job.needs.weigh else {}
    return found


def _curve(job: EvaluateJob, arm: str) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(job.needs.policies[arm] / "curve.jsonl", failure=Damaged)]


# --- answers and verdicts -------------------------------------------------------------------------------------------


def _prompts(job: EvaluateJob, count: int) -> list[list[Message]]:
    """The first `count` different held-out prompts."""
    different = different_prompts(load_split(job.needs.data, "eval"))
    if not different:
        raise UserError("evaluate: the data's split 'eval' is empty; policies are compared on its prompts")
    return list(different[:count])


def _answers(job: EvaluateJob, run: _Run, prompts: Sequence[list[Message]], score: Score) -> dict[str, Answered]:
    """Of SFT, of each arm, and of the policies from outside."""
    settings = run.settings
    own = {SFT: job.needs.sft} | {arm: job.needs.policies[arm] for arm in run.arms}
    loaders = {policy: partial(policy_of, job, folder) for policy, folder in own.items()}
    for policy, where in settings.policies.items():
        trusted = policy in settings.trust_remote_code
        loaders[policy] = partial(load_outside, policy, where, trusted, dtype=job.dtype, device=job.device)
    answers = {}
    for step, (policy, load) in enumerate(loaders.items(), 1):
        written = own[policy] / ANSWERS if policy in own else None
        made = kept_answers(written, prompts) if written is not None and written.is_file() else None
        answers[policy] = _answered(job, run, prompts, score, load, made, own.get(policy))
        job.progress(step, run.steps, tokens=answers[policy].responses.facts().tokens)
    return answers


def _answered(
    job: EvaluateJob,
    run: _Run,
    prompts: Sequence[list[Message]],
    score: Score,
    load: Load,
    made: PolicyResponses | None = None,
    folder: Path | None = None,
) -> Answered:
    """Of one policy, and what is thought of it. made: where its answers are known. folder: the policy's; where it takes
    weights it answers at its arm's own."""
    settings = run.settings
    if made is None:
        asked = prompts if folder is None else usual_prompts(folder, prompts)
        made = respond(load, asked, settings.answering, seed=job.seed, gather=job.hardware.zero.most_gathered)
    scored = score(prompts[: settings.scored], made.texts[: settings.scored])
    true = true_scores(prompts, made.texts, run.truth) if run.truth else None
    utility = utilities(prompts, made.texts) if run.truth else None
    return Answered(made, scored, true, utility)


def _judge_facts(job: EvaluateJob, run: _Run, judge: PolicyJudge) -> results.JudgeFacts:
    gold = _accuracy(job, GOLD) if GOLD in job.needs.pm else None
    agreement = _agreement(job, run, judge)  # before its cost is counted
    warnings = list(dict.fromkeys(judge.warnings))
    served = dict(judge.served) if judge.served else None
    return results.JudgeFacts(
        run.settings.judge.source, judge.name, dict(judge.cost), served, warnings, gold, agreement
    )


def _agreement(job: EvaluateJob, run: _Run, judge: PolicyJudge) -> results.JudgeAgreement | None:
    """Of the judge with people, on pairs that it has not seen. A gold model has learnt from those held out."""
    count, source = run.settings.agreement, run.settings.judge.source
    if not count or source == "rules":
        return None
    pairs = _human_pairs(job, "train" if source == "pm" else "eval")[:count]
    return agrees_with_people(judge, pairs, **run.how)


def _yardstick(job: EvaluateJob, run: _Run, judge: PolicyJudge, prompts: Sequence[list[Message]]) -> results.Yardstick:
    contents = {key: value for key, value in job.reads.contents.items() if key.startswith("eval.judge.")}
    gold = job.needs.pm.get(GOLD)
    known = None if gold is None else str(_manifest(gold).get("digest", gold.name))
    return yardstick(run.settings.judge, judge.name, prompts, contents=contents, gold=known)


def _contests(
    job: EvaluateJob, run: _Run, judge: PolicyJudge, prompts: Sequence[list[Message]], answers: Mapping[str, Answered]
) -> dict[Two, Contest]:
    texts = {policy: one.responses.texts for policy, one in answers.items()}
    found = wins.judge_all(judge, prompts, texts, wins.contests(list(run.arms), list(run.settings.policies)), **run.how)
    job.progress(run.steps - 1, run.steps, win_rate=found[run.policy, SFT].rate.value or 0.0)
    return found


def _rates(
    job: EvaluateJob, run: _Run, prompts: Sequence[list[Message]], answers: Mapping[str, Answered]
) -> dict[str, dict[str, results.CheckedRate]]:
    """Of each question about single responses, each policy's share of yes."""
    if not run.settings.rates:
        return {}
    judge = checks.checker(getattr(run.settings.judge, "engine", None), job.ledger)
    texts = {policy: one.responses.texts for policy, one in answers.items()}
    return checks.rates(judge, run.settings.rates, prompts, texts, run.settings.confidence)


def _kept(
    job: EvaluateJob,
    run: _Run,
    judge: PolicyJudge,
    prompts: Sequence[list[Message]],
    answers: Mapping[str, Answered],
    score: Score,
) -> dict[str, list[results.KeptPolicy]]:
    """What each arm left behind on its way, against SFT."""
    if not run.settings.kept:
        return {}
    base, names, made = answers[SFT], run.models.names, {}
    for arm in run.arms:
        objective = run.models.objectives.get(arm)
        proxy = None if objective is None else as_function(objective, names)
        found = []
        for step, folder in kept.kept_policies(job.needs.policies[arm]):
            answer = _answered(job, run, prompts, score, partial(policy_of, job, folder), folder=folder)
            texts = {arm: answer.responses.texts, SFT: base.responses.texts}
            won = wins.judge_all(judge, prompts, texts, [(arm, SFT)], **run.how)[arm, SFT]
            gained = None if proxy is None else proxy(answer.scores) - proxy(base.scores)
            found.append(kept.measured(step, run.curves[arm], answer, base, won, gained, **run.how))
        if found:
            made[arm] = found
    return made


def _held_out(job: EvaluateJob, run: _Run, score: Score) -> tuple[held_out.ScoredPairs, held_out.ScoredPairs]:
    """The held-out pairs with their AI labels; and those with human labels, the same where these have them."""
    names, apart = run.models.names, {"whole": run.models.whole, "own": list(filter(is_own, run.models.names))}
    rows = load_pairs(job.needs.respond, "eval")[: run.settings.pairs]
    columns = [_labels(job.needs.feedback[labelled_by(name)], rows) for name in names]
    labels = np.array(columns, dtype=float).reshape(len(names), len(rows)).T
    pairs = held_out.score_pairs(rows, names, score, labels, run.truth, **apart)
    judged = _human_pairs(job)[: run.settings.pairs]
    if not np.isnan(pairs.human).all() or not judged:
        return pairs, pairs
    # sampled responses: the human labels are on the data's own pairs
    unknown = np.full((len(judged), len(names)), np.nan)
    return pairs, held_out.score_pairs(judged, names, score, unknown, run.truth, **apart)


def _labels(folder: Path, pairs: Sequence[Pair]) -> list[float | None]:
    """The judge's probability that the first response is better, for each of `pairs`; NaN without a valid verdict."""
    wanted = {pair.id for pair in pairs}
    verdicts = (verdict for verdict in load_verdicts(folder, "eval") if verdict.valid and verdict.pair_id in wanted)
    known = {verdict.pair_id: verdict.p_first for verdict in verdicts}
    return [known.get(pair.id, np.nan) for pair in pairs]


def _human_pairs(job: EvaluateJob, split: str = "eval") -> Sequence[Pair]:
    """The data's own pairs, held out by default, where it has any."""
    examples = load_split(job.needs.data, split)
    paired = [row for row, e in enumerate(examples) if e.chosen is not None and e.rejected is not None]
    return source_pairs(Picked(examples, paired)).pairs


# --- numbers --------------------------------------------------------------------------------------------------------


def _results(
    job: EvaluateJob,
    run: _Run,
    answers: Mapping[str, Answered],
    found: Mapping[Two, Contest],
    pairs: held_out.ScoredPairs,
    kinds: Mapping[str, held_out.Standard],
    measure: results.Yardstick,
) -> RunResults:
    names, confidence = run.models.names, run.settings.confidence
    functions = {arm: as_function(objective, names) for arm, objective in run.models.objectives.items()}
    curve = run.curves[run.policy]
    return RunResults(
        pm_accuracy={name: _accuracy(job, name) for name in names if name in run.principles or len(names) == 1},
        single_pm_accuracy=_accuracy(job, SINGLE) if SINGLE in names else None,
        pm_truth_accuracy=held_out.truth_accuracy(pairs, confidence),
        objective_accuracy=held_out.objective_accuracy(functions, kinds, confidence),
        win_rate={versus(*two): contest.rate for two, contest in found.items()},
        yardstick=measure,
        reward=results.Gain(curve[0]["reward"], curve[-1]["reward"]),
        kl=run.kl[run.policy],
        length={policy: one.responses.facts().tokens for policy, one in answers.items()},
        budget=_budgets(job, run),
    )


def _of_policies(run: _Run, answers: Mapping[str, Answered], found: Mapping[Two, Contest]) -> dict[str, Any]:
    """What details say of the policies."""
    moves = overview.of_policies(answers, run.models, found, run.kl, run.settings.reference, **run.how)
    return vars(moves) | {
        "responses": {policy: one.responses.facts() for policy, one in answers.items()},
        "length_controlled": {versus(*two): contest.length_controlled.result for two, contest in found.items()},
        "length_ratio_controlled": {versus(*two): c.length_ratio_controlled.result for two, c in found.items()},
        "paired": wins.paired(found, **run.how),
    }


def _of_models(
    job: EvaluateJob,
    run: _Run,
    pairs: held_out.ScoredPairs,
    human: held_out.ScoredPairs,
    kinds: Mapping[str, held_out.Standard],
    score: Score,
) -> dict[str, Any]:
    """What details say of the preference models and of the objectives over them."""
    settings = run.settings
    return vars(overview.of_models(run.models, kinds, run.scalarizer, settings, job.seed)) | {
        "correlation": held_out.correlations(pairs),
        "cross_accuracy": held_out.cross_accuracy(pairs, settings.confidence),
        "tie_accuracy": held_out.tie_accuracy(pairs, settings.confidence),
        "length_baseline": held_out.length_baseline(kinds, settings.confidence),
        "calibration": held_out.calibrations(pairs),
        "cut": {name: _cut(job, name) for name in run.models.names},
        "rewardbench": _bench(run, score),
        "regression": _regression(job, run, human),
    }


def _of_labels(job: EvaluateJob, run: _Run, headlines: RunResults) -> dict[str, Any]:
    """What details say of labels, budgets and weights: how good they are, and how those of the principles relate."""
    labels = list(dict.fromkeys(map(labelled_by, run.models.names)))
    together = {labelled_by(name): job.needs.feedback[labelled_by(name)] for name in run.models.parts}
    return {
        "budget": headlines.budget,
        "weights": {
            arm: results.load(ArmWeights, job.needs.weigh[arm] / "weights.json")
            for arm in run.arms
            if arm in job.needs.weigh
        },
        "label_quality": {name: _read(job.needs.feedback[name] / "quality.json") for name in labels},
        "labels": results.LabelRelations(**label_report(together, job.needs.respond, "train")),
    }


def _bench(run: _Run, score: Score) -> results.Bench | None:
    path = run.settings.rewardbench
    if path is None or not run.models.names:
        return None
    return overview.of_bench(read_bench(Path(path).expanduser()), run.models, score, run.settings)


def _regression(job: EvaluateJob, run: _Run, human: held_out.ScoredPairs) -> results.RegressionFound | None:
    """Of the human label on the models' scores: as an arm's weights came from it, else on the held-out pairs."""
    significance = 1 - run.settings.confidence
    for name, arm in run.arms.items():
        if arm.of_principles and "regression" in (weighed := _weights(job, name)):
            return regression.discussed(weighed["regression"], "weights", significance)
    fit = regression.on_held_out(human, significance)
    return regression.discussed(fit, "held-out pairs", significance) if fit else None


def _budgets(job: EvaluateJob, run: _Run) -> results.Budgets:
    sizes = _sizes(job) if run.models.names else None
    return budget.compared({name: budget.arm_budget(_spent(job, run, name, sizes)) for name in run.arms})


def _spent(job: EvaluateJob, run: _Run, name: str, sizes: budget.Sizes | None) -> budget.Spent:
    models = run.arms[name].models
    labels = list(dict.fromkeys(map(labelled_by, models)))
    policy = _manifest(job.needs.policies[name])
    known = policy.get("needs")  # without preference models where it learns from verdicts alone
    asked = models if known is None else [model for model in models if f"pm/{model}" in known]
    return budget.Spent(
        {model: _read(job.needs.pm[model] / "pm.json") for model in asked},
        {model: _manifest(job.needs.pm[model]) for model in asked},
        {label: _read(job.needs.feedback[label] / "quality.json") for label in labels},
        {label: _manifest(job.needs.feedback[label]) for label in labels},
        policy,
        run.curves[name],
        _weights(job, name).get("ratings"),
        sizes,
    )


def _sizes(job: EvaluateJob) -> budget.Sizes | None:
    """Of what the preference models are built on, and of the first training pairs; None for an unknown architecture."""
    source = pm_base_of(job) or base_of(job)
    found = of_path(source.path, source.revision)
    pairs = load_pairs(job.needs.respond, "train")[:PAIRS_COUNTED]
    if found is None or not pairs:
        return None
    tokenizer = load_tokenizer(source)
    prompts = [len(prompt_ids(tokenizer, pair.messages)) for pair in pairs]
    responses = [len(ids) for pair in pairs for ids in tokenizer([pair.first, pair.second])["input_ids"]]
    return budget.Sizes(
        found.body, found.parameters, found.width, found.adapted, float(np.mean(prompts)), float(np.mean(responses))
    )


# --- files ----------------------------------------------------------------------------------------------------------


def _accuracy(job: EvaluateJob, model: str) -> Estimate:
    """Of a preference model, on its own held-out labels."""
    file = job.needs.pm[model] / "pm.json"
    return results.parse(Estimate, _read(file)["accuracy"], file)


def _cut(job: EvaluateJob, model: str) -> results.Truncation:
    file = job.needs.pm[model] / "pm.json"
    report = _read(file)
    return results.parse(results.Truncation, {**report["cut"], "max_prompt": report["max_prompt"]}, file)


def _manifest(folder: Path) -> dict[str, Any]:
    """What the store wrote down about a unit; empty for a folder that is none of its."""
    found: dict[str, Any] = _read(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
    return found


def _read(path: Path) -> Any:
    return read_json(path, failure=Damaged)


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
