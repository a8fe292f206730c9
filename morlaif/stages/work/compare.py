"""Stage `compare`: judge the policies of finished runs against one another, and show the runs on one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.data.records import Message
from morlaif.errors import Damaged, describe
from morlaif.evaluation.bradley_terry import Strengths, strengths
from morlaif.evaluation.judges import EngineJudge, PolicyJudge, Score, ScoreJudge, TruthJudge
from morlaif.evaluation.matrix import WinMatrix, win_matrix
from morlaif.evaluation.results import Estimate
from morlaif.evaluation.settings import JudgeSettings, PMJudge, RulesJudge
from morlaif.evaluation.wins import versus
from morlaif.files import read_json
from morlaif.report.comparison.charts import Chart
from morlaif.report.comparison.data import ComparedRuns, Judged, JudgedPair, Policy, load
from morlaif.report.comparison.page import chart_json, numbers, render, rounded, sections
from morlaif.report.comparison.print import draw
from morlaif.report.data import read_lines
from morlaif.report.style import save_png, styled
from morlaif.stages.compare import CompareJob
from morlaif.statistics import Array, Resampling
from morlaif.texts import write_csv

Written = Mapping[str, tuple[list[Message], str]]  # prompt and response of one policy, by the prompt's id


def build(job: CompareJob) -> dict[str, Any]:
    runs = load(job.reads.runs, job.needs)
    policies = ComparedRuns(runs).policies
    data = ComparedRuns(runs, replace(_judge_all(job, policies), hypervolume=_hypervolumes(policies)))
    made = sections(data)
    charts = [chart for *_, charts in made for chart in charts]
    for step, chart in enumerate(charts):
        _write_figure(job.out, chart)
        job.progress(step + 1, len(charts))
    html = render(data, made, _seconds(job, data))
    (job.out / "comparison.html").write_text(html, encoding="utf-8")
    _write_json(job.out / "comparison.json", numbers(data, made))
    return {"bytes": len(html.encode()), "policies": len(data.policies), "pairs": len(data.judged.rates)}


def trouble(run: Mapping[str, Any], inputs: Mapping[str, Path]) -> str | None:
    """Why one run, `{name, config, units, human}`, cannot be shown, or None."""
    try:
        data = ComparedRuns(load([run], inputs))
        numbers(data, sections(data))
    except Exception as error:
        return describe(error)
    return None


# --- who wins against whom ------------------------------------------------------------------------------------------


def _judge_all(job: CompareJob, policies: Sequence[Policy]) -> Judged:
    """Every two policies on the prompts that both have answered, by the judge that the runs share."""
    how = Resampling(seed=job.seed, resamples=job.reads.resamples, confidence=job.reads.confidence)
    if job.reads.judge is None:
        return Judged(_known(policies), note=job.reads.why_not)
    answers = {policy.key: _answers(job, policy) for policy in policies}
    judge = _judge(job, job.reads.judge, policies)
    rates: list[JudgedPair] = []
    ranked: list[Strengths] = []
    for group in _groups(answers):
        shared = [id_ for id_ in answers[group[0]] if all(id_ in answers[key] for key in group)]
        shared = shared[: job.reads.prompts]
        prompts = [answers[group[0]][id_][0] for id_ in shared]
        texts = {key: [answers[key][id_][1] for id_ in shared] for key in group}
        matrix = win_matrix(texts, prompts, judge)
        rates += _rates(matrix, how)
        ranked.append(strengths(matrix, **how))
    note: str = job.reads.judge_note
    if len(ranked) != 1:
        apart = " Runs that answered different prompts are not compared with one another." if ranked else ""
        return Judged(rates, note=note + apart)
    found = {key: Estimate.of(one) for key, one in zip(ranked[0].names, ranked[0].strength, strict=True)}
    return Judged(rates, found, ranked[0].tie, note)


def _groups(answers: Mapping[str, Written]) -> list[list[str]]:
    """Policies that can be compared: all of them if any prompt is answered by all, else those of the same prompts."""
    if set.intersection(*(set(own) for own in answers.values())):
        groups = [list(answers)]
    else:
        of: dict[frozenset[str], list[str]] = {}
        for key, own in answers.items():
            of.setdefault(frozenset(own), []).append(key)
        groups = list(of.values())
    return [group for group in groups if len(group) > 1]


def _rates(matrix: WinMatrix, how: Resampling) -> list[JudgedPair]:
    """For each two policies the win rate of the first over the second, and what became of the prompts."""
    found = matrix.as_dict(**how)
    parts = ("win", "tie", "loss", "flip_rate", "invalid")
    return [
        JudgedPair(
            **found["rate"][i][j],
            **{part: found[part][i][j] for part in parts},
            first=matrix.names[i],
            second=matrix.names[j],
        )
        for i, j in matrix.pairs
    ]


def _hypervolumes(policies: Sequence[Policy]) -> dict[str, float]:
    """The relative hypervolume of each policy, by its key, as the run that has it found it."""
    known = {policy.key: policy.run.details.pareto.relative.get(policy.name) for policy in policies}
    return {key: volume for key, volume in known.items() if volume is not None}


def _answers(job: CompareJob, policy: Policy) -> Written:
    folder = job.needs[f"evaluate/{policy.run.units['evaluate']}"]
    rows = read_lines(folder / "responses.jsonl")
    return {row["prompt_id"]: (row["messages"], row["responses"][policy.name]["text"]) for row in rows}


def _known(policies: Sequence[Policy]) -> list[JudgedPair]:
    """The comparisons that the runs made themselves: each policy with SFT and with the other arms of its run."""
    rates = []
    for policy in policies:
        for other in policies:
            shared = next((run for run in policy.runs if run in other.runs), None)
            rate = shared and shared.results.win_rate.get(versus(policy.name, other.name))
            if rate:
                rates.append(JudgedPair(**asdict(rate), first=policy.key, second=other.key))
    return rates


def _judge(job: CompareJob, settings: JudgeSettings, policies: Sequence[Policy]) -> PolicyJudge:
    match settings:
        case RulesJudge():
            return TruthJudge(job.reads.principles)
        case PMJudge():
            return ScoreJudge(_Remembered(_gold(job, policies[0].run.units)))
        case engine:  # a source of feedback
            return EngineJudge(engine, ledger=job.ledger, seed=job.seed, on_progress=job.progress)


def _gold(job: CompareJob, units: Mapping[str, str]) -> Score:
    from morlaif.models.load import source_of
    from morlaif.preference.bank import PreferenceBank

    base = source_of(job.needs[f"sft/{units['sft']}"])
    models = {"gold": job.needs[f"pm/{units['pm/gold']}"]}
    bank = PreferenceBank.load(models, base, job.device, job.dtype)
    return lambda prompts, responses: bank.score(prompts, responses).double().cpu().numpy()[:, 0]


class _Remembered:
    """A score that is taken once for each response, however many comparisons it is part of."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self._known: dict[tuple[str, str], float] = {}

    def __call__(self, prompts: Sequence[list[Message]], responses: Sequence[str]) -> Array:
        keys = [(json.dumps(messages), text) for messages, text in zip(prompts, responses, strict=True)]
        new = {key: k for k, key in enumerate(keys) if key not in self._known}
        if new:
            places = list(new.values())
            found = self._score([prompts[k] for k in places], [responses[k] for k in places])
            self._known |= dict(zip(new, found.tolist(), strict=True))
        return np.array([self._known[key] for key in keys])


# --- files ----------------------------------------------------------------------------------------------------------


def _write_figure(out: Path, chart: Chart) -> None:
    """figures/<name>.png, data/<name>.csv and data/<name>.json."""
    for folder in ("figures", "data"):
        (out / folder).mkdir(exist_ok=True)
    with styled():
        save_png(draw(chart), out / "figures" / f"{chart.name}.png")
    heads, rows = chart.table()
    with (out / "data" / f"{chart.name}.csv").open("w", newline="", encoding="utf-8") as stream:
        write_csv(stream, heads, rounded(rows))
    _write_json(out / "data" / f"{chart.name}.json", chart_json(chart))


def _seconds(job: CompareJob, data: ComparedRuns) -> dict[str, float]:
    """How long each policy's PPO took to build, by its key."""
    found = {}
    for policy in data.aligned:
        manifest = job.needs[policy.key] / "manifest.json"
        if manifest.is_file():
            found[policy.key] = read_json(manifest, "a manifest", of=dict, failure=Damaged)["seconds"]
    return found


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
