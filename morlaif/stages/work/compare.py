"""Stage `compare`: judge the policies of finished runs against one another, and show the runs on one page."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.data.records import Message
from morlaif.errors import Damaged, describe
from morlaif.evaluation.aggregate import Cell
from morlaif.evaluation.judges import EngineJudge, PolicyJudge, Score, ScoreJudge, UtilityJudge
from morlaif.evaluation.matrix import WinMatrix, win_matrix
from morlaif.evaluation.settings import JudgeSettings, PMJudge, RulesJudge
from morlaif.evaluation.wins import versus
from morlaif.files import read_json
from morlaif.report.comparison.aggregated import Judgements, aggregated
from morlaif.report.comparison.cells import cells
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
    data = ComparedRuns(load(job.reads.runs, job.needs))
    seconds = _seconds(job, data)
    judged, verdicts = _judge_all(job, data.policies, cells(data))
    how = Resampling(seed=job.seed, resamples=job.reads.resamples, confidence=job.reads.confidence)
    found = aggregated(data, verdicts, how, seconds)
    strong = {one.cell: one.strength for one in found.standings if one.strength}
    judged = replace(judged, strengths=strong, hypervolume=_hypervolumes(data.policies))
    data = ComparedRuns(data.runs, judged, found)
    made = sections(data)
    charts = [chart for *_, charts in made for chart in charts]
    for step, chart in enumerate(charts):
        _write_figure(job.out, chart)
        job.progress(step + 1, len(charts))
    html = render(data, made, seconds)
    (job.out / "comparison.html").write_text(html, encoding="utf-8")
    _write_json(job.out / "comparison.json", numbers(data, made))
    return {"bytes": len(html.encode()), "policies": len(data.policies), "pairs": len(data.judged.rates)}


def trouble(run: Mapping[str, Any], inputs: Mapping[str, Path]) -> str | None:
    """Why one run, `{name, config, units, human}`, cannot be shown, or None."""
    try:
        data = ComparedRuns(load([run], inputs))
        how = Resampling(seed=0, resamples=2, confidence=0.95)
        data = replace(data, aggregate=aggregated(data, Judgements(), how, {}))
        numbers(data, sections(data))
    except Exception as error:
        return describe(error)
    return None


# --- who wins against whom ------------------------------------------------------------------------------------------


def _judge_all(job: CompareJob, policies: Sequence[Policy], own: Sequence[Cell]) -> tuple[Judged, Judgements]:
    """Every two policies on the prompts that both have answered, by the judge that the runs share.

    Of arms with several seeds, policies of one seed; where two arms share none, all of them.
    """
    how = Resampling(seed=job.seed, resamples=job.reads.resamples, confidence=job.reads.confidence)
    if job.reads.judge is None:
        rates = _known(policies)
        known = {(rate.first, rate.second): rate.value for rate in rates if rate.value is not None}
        return Judged(rates, note=job.reads.why_not), Judgements(known=known)
    answers = {policy.key: _answers(job, policy) for policy in policies}
    judge = _judge(job, job.reads.judge, policies)
    meet = _meet(own)
    rates, matrices = [], []
    for group in _groups(answers):
        shared = [id_ for id_ in answers[group[0]] if all(id_ in answers[key] for key in group)]
        shared = shared[: job.reads.prompts]
        prompts = [answers[group[0]][id_][0] for id_ in shared]
        texts = {key: [answers[key][id_][1] for id_ in shared] for key in group}
        matrix = win_matrix(texts, prompts, judge, lambda a, b: frozenset((a, b)) in meet)
        rates += [rate for rate in _rates(matrix, how) if frozenset((rate.first, rate.second)) in meet]
        matrices.append(matrix)
    note: str = job.reads.judge_note
    if len(matrices) > 1:
        note += " Runs that answered different prompts are not compared with one another."
    return Judged(rates, note=note), Judgements(matrices)


def _meet(own: Sequence[Cell]) -> set[frozenset[str]]:
    """Policies, two by two, whose verdicts say something of their cells."""
    found = set()
    for first, second in itertools.combinations(own, 2):
        seeds = [(seed, seed) for seed in first.policies if seed in second.policies]
        for a, b in seeds or itertools.product(first.policies, second.policies):
            found.add(frozenset((first.policies[a], second.policies[b])))
    return found


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
            return UtilityJudge()
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
