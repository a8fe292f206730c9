"""The page of several runs: policies once each, judged against one another; figures with their data; no network."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
from browsed import with_script

from morlaif.evaluation.settings import RulesJudge
from morlaif.hardware import HardwareSettings
from morlaif.report.comparison.charts import front
from morlaif.report.comparison.data import ComparedRuns, load
from morlaif.report.comparison.page import add_jobs
from morlaif.stages.compare import Asked, CompareReads
from morlaif.stages.work import compare
from morlaif.units.job import Job

PAPER = {"principle_accuracy", "objective_accuracy", "win_matrix", "win_rates", "correlations"}
HUMAN = {"comparisons": {"multi_vs_single": {"win": 0.5, "tie": 0.2, "loss": 0.3, "n": 60},
                         "multi_vs_sft": {"win": 0.7, "tie": 0.1, "loss": 0.2, "n": 60}}}  # fmt: skip

pytestmark = pytest.mark.slow


def build(made: tuple[list[dict], dict[str, Path]], out: Path, png: bool = False, **changes) -> tuple[dict, str]:
    """The figures as PNG too, which takes most of the time, where `png`."""
    runs, inputs = made
    out.mkdir()
    judges = [Asked(judge=RulesJudge(source="rules"), why_not="") for _ in runs]
    config = {
        "runs": runs, "judges": judges, "prompts": None, "confidence": 0.95, "resamples": 200, **changes,
    }  # fmt: skip
    hardware = HardwareSettings.model_construct(device="cpu", dtype="float32", threads=1)
    job = Job(
        "compare",
        "compare",
        "0" * 16,
        CompareReads(seed=0, **config),
        inputs,
        out,
        out,
        out,
        0,
        hardware,
        lambda *_: None,
    )
    with nullcontext() if png else mock.patch.object(compare, "save_png"):
        compare.build(job)
    return json.loads((out / "comparison.json").read_text()), (out / "comparison.html").read_text()


def charts_of(html: str) -> dict[str, dict]:
    (text,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', html, re.DOTALL)
    return {chart["name"]: chart for chart in json.loads(text)}


@pytest.fixture(scope="module")
def built(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "out"
    return *build(runs(), out, png=True), out


def test_each_policy_is_there_once_under_a_name_that_tells_it_apart(built):
    found, _, _ = built
    labels = {policy["label"]: policy for policy in found["policies"]}
    assert list(labels) == ["linear", "max-min", "soft-max-min", "single PM", "SFT"]
    assert labels["single PM"]["runs"] == ["run-0", "run-1", "run-2"] and labels["linear"]["runs"] == ["run-0"]


def test_every_two_policies_are_judged_once(built):
    found, html, _ = built
    rates = {(row["first"], row["second"]): row for row in found["judged"]["rates"]}
    assert len(rates) == 5 * 4 // 2
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rates.values())
    assert rates["ppo/a0", "sft/5f7"]["value"] > 0.9
    cells = charts_of(html)["win_matrix"]["cells"]
    for i, row in enumerate(cells):
        assert row[i] is None
        for j, cell in enumerate(row):
            if i != j:
                assert cell["value"] + cells[j][i]["value"] == pytest.approx(1, abs=1e-5)
                assert cell["low"] == pytest.approx(1 - cells[j][i]["high"], abs=1e-5)
    theta = found["judged"]["strengths"]
    assert set(theta) == {policy["key"] for policy in found["policies"]}
    assert sum(one["value"] for one in theta.values()) == pytest.approx(0, abs=1e-6)
    assert min(theta, key=lambda key: theta[key]["value"]) == "sft/5f7"


def test_every_figure_is_there_in_print_as_data_and_on_the_page(built):
    found, html, out = built
    charts = charts_of(html)
    assert set(found["figures"]) == set(charts) >= PAPER | {"strengths", "changes", "pareto", "curves"}
    for name, chart in charts.items():
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        with (out / "data" / f"{name}.csv").open() as stream:
            heads, *rows = csv.reader(stream)
        stored = json.loads((out / "data" / f"{name}.json").read_text())
        assert heads == chart["table"]["heads"] and len(rows) == len(chart["table"]["rows"]) > 0
        assert stored["table"] == chart["table"] and f'id="fig-{name}"' in html
    assert len(html.encode()) < 2_000_000


def test_published_values_stand_beside_ours_where_they_apply(built, runs, tmp_path):
    _, html, _ = built
    charts = charts_of(html)
    assert charts["objective_accuracy"]["references"][0]["spans"][0] == [0.716, 0.739]  # linear
    assert charts["win_rates"]["references"][0]["spans"] == [[0.623, 0.84], None, None, None]
    assert "arXiv 2406.07295" in charts["objective_accuracy"]["caption"]
    _, html = build(runs(principles=("helpfulness", "ethicality")), tmp_path / "few")
    charts = charts_of(html)
    assert charts["principle_accuracy"]["references"] == [] and charts["win_rates"]["references"] == []
    chart = charts["objective_accuracy"]
    spans = dict(zip(chart["rows"], chart["references"][0]["spans"], strict=True))
    assert spans["linear"] is None and spans["single PM"] == [0.678, 0.716]


def test_runs_are_distinguished_by_what_differs_alone(built):
    _, html, _ = built
    (table,) = re.findall(r'aria-label="Runs">.*?</table>', html, re.DOTALL)
    heads = re.findall(r"<th scope=\"col\">(.*?)</th>", table)
    assert heads[:2] == ["run", "scalarizer"] and "seed" not in heads
    assert "3 runs compared by scalarizer" in html


def test_people_are_shown_once_they_have_rated(runs, tmp_path):
    made, inputs = runs()
    _, html = build((made, inputs), tmp_path / "before")
    assert "human_win_rates" not in charts_of(html) and "No run has been rated by people yet" in html
    made[1]["human"] = HUMAN
    _, html = build((made, inputs), tmp_path / "after")
    rows = charts_of(html)["human_win_rates"]["rows"]
    assert [row["label"] for row in rows] == [
        "max-min over the single PM", "max-min over SFT", "paper: linear over the single PM, Llama-2-7b",
    ]  # fmt: skip
    assert (rows[0]["win"], rows[0]["n"], rows[2]["published"]) == (0.5, 60, True)
    assert "No run has been rated" not in html


def test_fewer_principles_are_drawn_with_the_ends_of_the_paper(runs, tmp_path):
    rows = [{"count": n, "names": [], "subsets": 1, "accuracy": {"human": interval(0.6 + n / 100)}, "ceiling": {}}
            for n in range(1, 13)]  # fmt: skip

    def ablated(number, details, results):
        details["ablation"] = {
            "names": [], "ceiling_of": "labels", "nested": rows, "random": rows[:3], "leave_one_out": [],
        }  # fmt: skip

    _, html = build(runs(change=ablated), tmp_path / "out")
    lines = {line["name"]: line for line in charts_of(html)["ablation"]["panels"][0]["lines"]}
    assert lines["linear, listed order"]["y"][-1] == pytest.approx(0.72)
    assert lines["linear, random subsets"]["x"] == [1, 2, 3]
    assert lines["paper, GPT-2-medium"]["y"] == [0.567, 0.715]


def interval(value: float) -> dict:
    return {"value": value, "low": value - 0.03, "high": value + 0.03, "n": 300}


def test_without_a_judge_only_what_the_runs_know_is_shown(runs, tmp_path):
    costs = [Asked(judge=None, why_not="The judge costs money.")] * 3
    found, html = build(runs(), tmp_path / "out", judges=costs)
    pairs = {(row["first"], row["second"]) for row in found["judged"]["rates"]}
    assert pairs == {*((f"ppo/a{k}", other) for k in range(3) for other in ("sft/5f7", "ppo/b")), ("ppo/b", "sft/5f7")}
    assert found["judged"]["strengths"] == {} and "The judge costs money." in html


def test_runs_that_answered_different_prompts_are_judged_apart(runs, tmp_path):
    made, inputs = runs(2)
    made[1]["units"] |= {"sft": "5f8", "ppo/single": "b1"}
    for old, new in (("sft/5f7", "sft/5f8"), ("ppo/b", "ppo/b1")):
        inputs[new] = inputs.get(old, inputs["ppo/b"])
    file = inputs["evaluate/e1"] / "responses.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"prompt_id": f"other{k}"}) + "\n" for k, row in enumerate(rows)))
    found, _ = build((made, inputs), tmp_path / "out")
    assert len(found["judged"]["rates"]) == 6 and found["judged"]["strengths"] == {}
    assert "different prompts are not compared" in found["judged"]["note"]
    assert {row["yardstick"] for row in found["judged"]["rates"]} == {*found["judged"]["yardsticks"]}
    assert len(found["judged"]["yardsticks"]) == 2 and len(found["aggregate"]["rates"]) == 3
    assert "in no table with these" in found["aggregate"]["note"]


def test_rows_of_different_standards_share_no_table(runs, tmp_path):
    """One run was judged by another judge: all are judged anew by one, or else its rates stay by themselves."""

    def other(number, details, results):
        if number == 2:
            results["yardstick"] |= {"id": "z", "judge": "someone", "judge_id": "other"}
            results["win_rate"]["multi_vs_sft"]["value"] = 0.01

    made = runs(change=other)
    asked = [Asked(judge=RulesJudge(source="rules"), why_not="")] * 2 + [Asked(judge=None, why_not="Costs.")]
    found, _ = build(made, tmp_path / "anew", judges=asked)
    (only,) = found["judged"]["yardsticks"].values()
    assert only["judge"] == "human utility" and only["count"] == 40 and found["judged"]["others"] == []
    assert len(found["judged"]["rates"]) == 10 and "Some runs had another judge" in found["judged"]["note"]
    found, _ = build(made, tmp_path / "known", judges=[Asked(judge=None, why_not="Costs.")] * 3)
    rates, others = found["judged"]["rates"], found["judged"]["others"]
    assert {row["yardstick"] for row in rates} == {"y"} and {row["yardstick"] for row in others} == {"z"}
    assert "ppo/a2" not in {row["first"] for row in rates} and "ppo/a2" in {row["first"] for row in others}
    assert 0.01 not in [row["value"] for row in found["aggregate"]["rates"]]


def test_a_judge_that_knows_no_more_than_the_longer_response_bears_no_verdict(runs, tmp_path):
    def doubtful(number, details, results):
        details["judge"]["source"] = "hf"

    found, _ = build(runs(change=doubtful), tmp_path / "out")
    assert {rate["verdict"] for rate in found["aggregate"]["rates"]} == {"unknown"}
    assert "not known" in found["judged"]["doubt"] and found["judged"]["doubt"] in found["aggregate"]["note"]


@pytest.mark.parametrize(
    "options",
    [{"arms": ("multi",)}, {"principles": ("preference",), "truth": False}, {"arms": ("single", "multi")}],
    ids=["no baseline", "one principle", "baseline first"],
)
def test_small_runs_have_a_page_too(runs, tmp_path, options):
    _, html = build(runs(2, **options), tmp_path / "out")
    assert "nan" not in html.lower().split() and charts_of(html)


def test_one_run_is_a_comparison_of_its_policies(runs, tmp_path):
    found, html = build(runs(1), tmp_path / "out")
    assert [policy["label"] for policy in found["policies"]] == ["linear", "single PM", "SFT"]
    assert "One run, its policies side by side" in html


def test_a_policy_from_outside_is_judged_with_the_others(runs, tmp_path):
    made, inputs = runs(2, change=lambda number, details, results: details.update(policies={"base": "hub/base"}))
    for number in (0, 1):
        file = inputs[f"evaluate/e{number}"] / "responses.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["responses"]["base"] = row["responses"]["sft"]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, html = build((made, inputs), tmp_path / "out")
    assert [policy["label"] for policy in found["policies"]] == ["linear", "max-min", "single PM", "SFT", "base"]
    (rate,) = [row for row in found["judged"]["rates"] if row["second"] == "outside/hub/base" and "sft" in row["first"]]
    assert rate["tie"] == 1 and "base" in charts_of(html)["win_matrix"]["rows"]


def test_runs_that_differ_in_their_seed_alone_are_averaged(runs, tmp_path):
    def moved(number, details, results):
        results["win_rate"]["multi_vs_sft"]["value"] = 0.7 + number / 10

    made, inputs = runs(3, change=moved)
    for number, run in enumerate(made):
        run["config"] |= {"seed": number, "scalarizer.name": "linear"}
    asked = [Asked(judge=None, why_not="It costs money.")] * 3
    found, html = build((made, inputs), tmp_path / "out", judges=asked)
    (table,) = re.findall(r'aria-label="Leaderboard">.*?</table>', html, re.DOTALL)
    half = 4.3027 * 0.1 / 3**0.5  # Student's t at 2 degrees of freedom, by the tables
    assert "80.0 %" in table and f"{100 * (0.8 - half):.1f} to 100.0" in table and ">3<" in table
    assert ("linear", "3") in [(row[0], row[2]) for row in found["leaderboard"]["rows"]]
    _, html = build(runs(), tmp_path / "other")
    assert "cover prompts alone: no arm is called better" in html and "Where the variance comes from" not in html


def test_the_jobs_are_filled_in_with_why_they_failed(built, hostile):
    _, html, _ = built
    jobs = [
        {"run": "run-0", "overrides": "a=1", "status": "succeeded", "seconds": "3", "why": "", "link": "../r.html"},
        {"run": "run-1", "overrides": "a=2", "status": "failed", "seconds": "1", "why": hostile, "link": None},
        {"run": "run-2", "overrides": "a=3", "status": "succeeded", "seconds": "3", "why": "", "link": None},
        {"run": "run-3", "overrides": "a=4", "status": "failed", "seconds": "1", "why": hostile, "link": None},
    ]
    page = add_jobs(html, jobs, "morlaif sweep=x")
    assert "4 jobs: 2 succeeded, 2 failed." in page and page.count("jobs 2, 4: ") == 1
    listed = page[page.index("Every job") :]
    assert listed.index(">run-2<") < listed.index(">run-1<") and "Labels and budgets" not in listed
    assert 'href="../r.html"' in page and "morlaif sweep=x" in page
    assert "<img" not in page and add_jobs(page, jobs, "morlaif sweep=x") == page


def test_hostile_names_stay_text(runs, tmp_path, hostile):
    made, inputs = runs(2)
    for run in made:
        run["config"]["scalarizer.name"] += hostile
    _, html = build((made, inputs), tmp_path / "out")
    assert "<img" not in html and html.count("<script") == 2 and "</script><" not in html.split('id="charts"')[0]
    assert len(charts_of(html)) > 5


def test_the_page_asks_the_network_for_nothing(built):
    _, html, _ = built
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|<link rel=.(?!icon)", html)
    assert "default-src 'none'" in html


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_every_figure_is_drawn_without_a_word_on_the_console(built, tmp_path, width):
    _, html, out = built
    page = out / "page.html"
    # what the page is made of once its script has run; a <details> opened by hand builds its table
    opened = """addEventListener('load', () => {
      document.querySelectorAll('details').forEach((d) => { d.open = true; });
      const tables = [...document.querySelectorAll('.scroll')].filter((s) => !s.closest('figure'));
      const wide = tables.filter((s) => s.scrollWidth > s.clientWidth + 1).map((s) => s.ariaLabel);
      if (document.documentElement.scrollWidth > innerWidth) wide.push('page');
      document.body.dataset.clipped = wide.join();
    })"""
    page.write_text(with_script(html, opened))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--virtual-time-budget=4000", f"--user-data-dir={tmp_path / 'profile'}",
         f"--window-size={width},1000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    (clipped,) = re.findall(r'data-clipped="(.*?)"', done.stdout)
    assert clipped == "" if width > 1000 else "page" not in clipped
    drawn = re.findall(r'<svg[^>]*role="img"', done.stdout)
    assert len(drawn) == len(charts_of(html)) and "NaN" not in done.stdout
    assert done.stdout.count("<table>") >= len(drawn)


def test_a_front_against_brute_force():
    import random

    rng = random.Random(0)
    for _ in range(50):
        points = [(rng.randint(0, 6), rng.randint(0, 6)) for _ in range(8)]
        kept = {points[k] for k in front(*zip(*points, strict=True))}
        beaten = {p for p in points if any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
        assert kept == set(points) - beaten


def test_models_that_runs_share_are_one_set(runs):
    made, inputs = runs()
    data = ComparedRuns(load(made, inputs))
    assert len(data.models) == 1 and len(data.models[0].runs) == 3
    made[2]["units"]["pm/detail"] = "another"
    made[2]["config"]["model.name"] = "larger"
    sets = ComparedRuns(load(made, inputs)).models
    assert [(len(models.runs), models.label) for models in sets] == [(2, "toy"), (1, "larger")] or len(sets) == 2
