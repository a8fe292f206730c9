"""Stage `compare`: judge the policies of finished runs against one another, and show the runs on one page."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.data.records import Message
from morlaif.errors import Damaged, describe
from morlaif.evaluation.aggregate import Cell
from morlaif.evaluation.judges import EngineJudge, PolicyJudge, Score, ScoreJudge, UtilityJudge
from morlaif.evaluation.matrix import WinMatrix, win_matrix
from morlaif.evaluation.results import Yardstick
from morlaif.evaluation.settings import JudgeSettings, PMJudge, RulesJudge
from morlaif.evaluation.wins import versus
from morlaif.evaluation.yardstick import measured_by
from morlaif.files import read_json
from morlaif.report.comparison.aggregated import Judgements, aggregated
from morlaif.report.comparison.cells import cells
from morlaif.report.comparison.charts import Chart
from morlaif.report.comparison.data import ComparedRun, ComparedRuns, Judged, JudgedPair, Policy, load
from morlaif.report.comparison.page import Sample, chart_json, numbers, render, rounded, sections
from morlaif.report.comparison.print import draw
from morlaif.report.data import read_lines, words
from morlaif.report.style import save_png, styled
from morlaif.stages.compare import CompareJob
from morlaif.statistics import Array, Resampling
from morlaif.texts import write_csv
from morlaif.units.job import Job

SAMPLES = 6  # prompts whose responses the page shows side by side
Written = Mapping[str, tuple[list[Message], str]]  # prompt and response of one policy, by the prompt's id


def build(job: CompareJob) -> dict[str, Any]:
    data = ComparedRuns(load(job.reads.runs, job.needs))
    seconds = _seconds(job, data)
    judged, verdicts = _judge_all(job, data, cells(data))
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
    html = render(data, made, seconds, _samples(job, data))
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


@dataclass(frozen=True)
class _Group:
    """Policies that answered the same prompts, and who wins among them."""

    rates: Sequence[JudgedPair]
    yardsticks: Sequence[Yardstick]
    matrix: WinMatrix | None = None  # none: not judged anew
    note: str = ""
    doubt: str = ""

    @property
    def judge(self) -> tuple[str, str]:
        return self.yardsticks[0].judge_id, self.yardsticks[0].template


def _judge_all(job: CompareJob, data: ComparedRuns, own: Sequence[Cell]) -> tuple[Judged, Judgements]:
    """Every two policies by one judge on the prompts that all of their group have answered, from the kept responses.

    The judge is that of the first run that can be asked. Where none can, each run's own rates are kept, by what they
    were measured. Of arms with several seeds, policies of one seed; where two arms share none, all of them.
    """
    meet = _meet(own)
    answers = {policy.key: found for policy in data.policies if (found := _answers(job, policy))}
    silent = [policy.key for policy in data.policies if policy.key not in answers]
    groups = [made for group in _groups(answers) for made in _judged(job, data, group, answers, meet)]
    groups += _known(job, data, silent) if silent else []
    judges = Counter({group.judge: 0 for group in groups})
    for group in groups:
        judges[group.judge] += len(group.rates)
    if not judges:
        return Judged(note=" ".join(dict.fromkeys(asked.why_not for asked in job.reads.judges))), Judgements()
    best = max(judges, key=lambda judge: judges[judge])  # the first of the largest
    main, rest = ([group for group in groups if (group.judge == best) == is_main] for is_main in (True, False))
    matrices = [group.matrix for group in main if group.matrix is not None]
    notes = list(dict.fromkeys(group.note for group in main))
    if len(main) > 1:
        notes.append("Runs that answered different prompts are not compared with one another.")
    if rest:
        notes.append("Policies that another judge compared are in comparison.json alone.")
    judged = Judged(
        [rate for group in main for rate in group.rates],
        [rate for group in rest for rate in group.rates],
        {one.id: one for group in groups for one in group.yardsticks},
        doubt=next((group.doubt for group in main if group.doubt), ""),
        note=" ".join(notes),
    )
    first = next((group for group in main if group.matrix is None), None)
    known = {(r.first, r.second): r for r in first.rates if r.value is not None} if first else {}
    return judged, Judgements(matrices, {} if matrices else known, judged.doubt)


def _judged(
    job: CompareJob, data: ComparedRuns, group: Sequence[str], answers: Mapping[str, Written], meet: set[frozenset[str]]
) -> list[_Group]:
    """One group anew, or what its runs know of it."""
    how = Resampling(seed=job.seed, resamples=job.reads.resamples, confidence=job.reads.confidence)
    runs = [run for run in data.runs if any(p.key in group for p in data.policies if run in p.runs)]
    asked = [(run, judge) for run in runs if (judge := _asked(job, data, run, runs)) is not None]
    if not asked:
        return _known(job, data, group)
    run, settings = asked[0]
    shared = [id_ for id_ in answers[group[0]] if all(id_ in answers[key] for key in group)][: job.reads.prompts]
    prompts = [answers[group[0]][id_][0] for id_ in shared]
    texts = {key: [answers[key][id_][1] for id_ in shared] for key in group}
    known = run.results.yardstick
    measure = measured_by(known.judge, known.judge_id, known.template, shared)
    matrix = win_matrix(texts, prompts, judge_of(job, settings, run.units), lambda a, b: frozenset((a, b)) in meet)
    rates = [rate for rate in _rates(matrix, measure.id, how) if frozenset((rate.first, rate.second)) in meet]
    note = f"Judged anew, by {words(known.judge)}, on the {len(prompts)} prompts that all have answered."
    if any(one.results.yardstick.judge_id != known.judge_id for one in runs):
        note += f" Some runs had another judge; this is that of {run.name}."
    return [_Group(rates, [measure], matrix, note, run.details.judge.doubt)]


def _asked(
    job: CompareJob, data: ComparedRuns, run: ComparedRun, others: Sequence[ComparedRun]
) -> JudgeSettings | None:
    """The judge of a run, where it may judge the policies of `others` too."""
    settings = job.reads.judges[list(data.runs).index(run)].judge
    if isinstance(settings, PMJudge) and len({one.units.get("data") for one in others}) > 1:
        return None  # it has learnt from pairs that the others may have trained on
    return settings


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
    if answers and set.intersection(*(set(own) for own in answers.values())):
        groups = [list(answers)]
    else:
        of: dict[frozenset[str], list[str]] = {}
        for key, own in answers.items():
            of.setdefault(frozenset(own), []).append(key)
        groups = list(of.values())
    return [group for group in groups if len(group) > 1]


def _rates(matrix: WinMatrix, yardstick: str, how: Resampling) -> list[JudgedPair]:
    """For each two policies the win rate of the first over the second, and what became of the prompts."""
    found = matrix.as_dict(**how)
    parts = ("win", "tie", "loss", "flip_rate", "invalid")
    return [
        JudgedPair(
            **found["rate"][i][j],
            **{part: found[part][i][j] for part in parts},
            first=matrix.names[i],
            second=matrix.names[j],
            yardstick=yardstick,
        )
        for i, j in matrix.pairs
    ]


def _hypervolumes(policies: Sequence[Policy]) -> dict[str, float]:
    """The relative hypervolume of each policy, by its key, as the run that has it found it."""
    known = {policy.key: policy.run.details.pareto.relative.get(policy.name) for policy in policies}
    return {key: volume for key, volume in known.items() if volume is not None}


def _answers(job: CompareJob, policy: Policy) -> Written:
    """Empty where its run kept none."""
    file = job.needs[f"evaluate/{policy.run.units['evaluate']}"] / "responses.jsonl"
    rows = read_lines(file) if file.is_file() else []
    return {row["prompt_id"]: (row["messages"], row["responses"][policy.name]["text"]) for row in rows}


def _samples(job: CompareJob, data: ComparedRuns) -> list[Sample]:
    """The first prompts that all arms' first seeds have answered."""
    answers = {arm.cell.label: found for arm in data.arms if (found := _answers(job, arm.policy))}
    shared = [id_ for id_ in next(iter(answers.values()), {}) if all(id_ in own for own in answers.values())]
    return [
        Sample(next(iter(answers.values()))[id_][0], [(label, own[id_][1]) for label, own in answers.items()])
        for id_ in shared[:SAMPLES]
    ]


def _known(job: CompareJob, data: ComparedRuns, group: Sequence[str]) -> list[_Group]:
    """The comparisons that the runs made themselves: each policy with SFT and with the other arms of its run."""
    found: dict[str, dict[tuple[str, str], JudgedPair]] = {}
    runs: dict[str, ComparedRun] = {}
    own = [policy for policy in data.policies if policy.key in group]
    for first, second in itertools.permutations(own, 2):
        for run in first.runs:
            rate = run.results.win_rate.get(versus(first.name, second.name)) if run in second.runs else None
            if rate is not None:
                id_ = run.results.yardstick.id
                pair = JudgedPair(**asdict(rate), first=first.key, second=second.key, yardstick=id_)
                found.setdefault(id_, {}).setdefault((first.key, second.key), pair)
                runs.setdefault(id_, run)
    made = []
    for id_, rates in found.items():
        run = runs[id_]
        note = job.reads.judges[list(data.runs).index(run)].why_not or "Only what each run compared itself is shown."
        doubt = run.details.judge.doubt
        made.append(_Group(list(rates.values()), [run.results.yardstick], note=note, doubt=doubt))
    return made


def judge_of(job: Job[Any, dict[str, Path]], settings: JudgeSettings, units: Mapping[str, str]) -> PolicyJudge:
    """`units`: of the run whose judge it is."""
    match settings:
        case RulesJudge():
            return UtilityJudge()
        case PMJudge():
            return ScoreJudge(_Remembered(_gold(job, units)))
        case engine:  # a source of feedback
            return EngineJudge(engine, ledger=job.ledger, seed=job.seed, on_progress=job.progress)


def _gold(job: Job[Any, dict[str, Path]], units: Mapping[str, str]) -> Score:
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
