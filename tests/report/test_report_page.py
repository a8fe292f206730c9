"""The page holds all it shows, asks the network for nothing, and survives hostile text and small runs."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from html.parser import HTMLParser
from unittest import mock

import pytest

from morlaif.errors import UserError
from morlaif.hardware import HardwareSettings
from morlaif.report import sections
from morlaif.report.data import load
from morlaif.report.figures import FIGURES
from morlaif.report.page import add_run
from morlaif.report.section import Drawing, Panel, Section
from morlaif.report.settings import OURS, ReportSettings, chosen
from morlaif.stages.report import ReportReads
from morlaif.stages.work import report
from morlaif.units.job import Job

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open, self.misnested = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def build(folders, config, out, png: bool = False, sections=None) -> tuple[str, Page]:
    """The page; the figures as PNG too, which takes most of the time, where `png`."""
    out.mkdir()
    hardware = HardwareSettings.model_construct(device="cpu", dtype="float32", threads=1)
    job = Job(
        "report",
        "report",
        "0" * 16,
        ReportReads(config=config, report=ReportSettings(sections=sections) if sections else None, seed=0),
        folders,
        out,
        out,
        out,
        0,
        hardware,
        lambda *_: None,
    )
    with nullcontext() if png else mock.patch("morlaif.report.style.save_png"):
        assert report.build(job)["bytes"] < 2_000_000
    html = (out / "report.html").read_text()
    assert "&lt;span class=" not in html  # markup of ours within a sentence that is escaped
    return html, Page(html)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("report") / "out"


@pytest.fixture(scope="module")
def built(artifacts, config, out):
    return build(artifacts(), config, out)


def test_nothing_is_asked_of_the_network(built):
    html, page = built
    assert not re.search(r"https?:|//\w+\.\w|@import|url\((?!#)", html)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "img", "base", "form")
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)


def test_elements_are_closed_in_order_and_identifiers_are_unique(built):
    _, page = built
    assert page.misnested == [] and page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {
        attributes["href"][1:] for _, attributes in page.elements if (attributes.get("href") or "").startswith("#")
    }
    assert targets <= set(ids)


ELSEWHERE = ("training_kept",)  # figures of what these runs have not


def test_every_figure_is_drawn_spoken_and_backed_by_a_table(built):
    html, page = built
    drawings = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(drawings) == len(FIGURES) - len(ELSEWHERE) == len(page.all("figure"))
    assert all(len(drawing["aria-label"]) > 20 for drawing in drawings)
    for figure in re.findall(r"<figure.*?</figure>", html, re.DOTALL):
        assert "<table>" in figure
        colours = set(re.findall(r"#[0-9a-f]{6}\b", figure))
        assert colours <= {"#000000"}, "a colour that does not follow light and dark"
        assert "var(--ink)" in figure or "var(--muted)" in figure


def test_labels_without_information_stand_above_all_figures(artifacts, config, tmp_path):
    folders = dict(artifacts())
    evaluated = tmp_path / "evaluate"
    shutil.copytree(folders["evaluate"], evaluated)
    details = json.loads((evaluated / "details.json").read_text())
    for quality in details["label_quality"].values():
        quality["information"] = {"warnings": ["sees <no> difference"]}
    details["judge"]["warnings"] = ["prefers the same place"]
    (evaluated / "details.json").write_text(json.dumps(details))
    html, page = build(folders | {"evaluate": evaluated}, config, tmp_path / "out", sections=["results"])
    (warning,) = re.findall(r'<aside class="warning".*?</aside>', html, re.DOTALL)
    assert html.index(warning) < html.index('<section id="results"') and page.misnested == []
    assert warning.count("sees &lt;no&gt; difference") == 1, "one line for a judge, whatever the principles"
    assert "openai:m" in warning and "The judge of the policies" in warning and "prefers the same place." in warning


def test_responses_that_are_cut_are_reported_above_all_figures(artifacts, config, tmp_path):
    folders = dict(artifacts())
    evaluated = tmp_path / "evaluate"
    shutil.copytree(folders["evaluate"], evaluated)
    details = json.loads((evaluated / "details.json").read_text())
    details["responses"]["sft"]["ended"] = 0.31
    (evaluated / "details.json").write_text(json.dumps(details))
    folders |= {"evaluate": evaluated}
    html, _ = build(folders, config, tmp_path / "out", sections=["results"])
    (warning,) = re.findall(r'<aside class="warning".*?</aside>', html, re.DOTALL)
    assert warning.count("<li>") == 1 and "Few answers end by themselves (of SFT 31 %); " in warning
    asked = {**config, "model": {**config["model"], "min_ended": 0.3}}
    assert "<aside" not in build(folders, asked, tmp_path / "asked", sections=["results"])[0]


def test_sound_labels_have_no_such_banner(built):
    assert "<aside" not in built[0]


def test_png_figures_and_numbers(built, artifacts, config, out, tmp_path):
    build(artifacts(), config, tmp_path / "png", png=True, sections=["results"])
    files = {file.stem: file.read_bytes() for file in (tmp_path / "png" / "figures").iterdir()}
    assert files and files.keys() < FIGURES.keys()
    assert all(data.startswith(b"\x89PNG") and len(data) > 5000 for data in files.values())
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["results"]["win_rate"]["multi_vs_sft"]["value"] == 0.86
    assert len(numbers["curves"]["multi"]) == 25


def test_the_page_says_what_it_measured(built):
    text = " ".join(built[1].text.split())
    assert "A policy aligned with 12 preference models by max-min scalarization" in text
    assert "86.0 %" in text and "One seed: the interval covers prompts alone" in text
    assert "Better:" not in text and "Worse:" not in text
    assert "on 300 held-out prompts" in text
    for word in ("understandability", "Label quality", "agrees with truth", "KL coefficient 0.05", "53.0 %"):
        assert word in text, word


def test_the_labels_with_what_they_cost(built):
    html, page = built
    text = " ".join(page.text.split())
    for column in ("orders disagree", "κ with humans", "prefers longer", "verdicts", "USD"):
        assert column in text, column
    row = rows_of(html, "Label quality")
    assert row["helpfulness"][:4] == ["99.5 %", "93.0 %", "64.0 % 59.8–68.2", "0.28 0.19 to 0.37"]
    assert row["helpfulness"][4:] == ["8.0 %", "+0.21", "57.0 %", "71.0 %", "1,200", "0.5000"]
    assert row["single"][-2:] == ["2,400", "0.5000"]  # two constitution principles a pair
    assert (row["all"][0], *row["all"][-2:]) == ("99.5 %", "16,800", "6.50")
    assert "left out, never counted as ties: 26 refused, 13 no letter." in text and "No human labels" not in text
    assert "Their mean correlation is 0.31." in text
    assert len(rows_of(html, "Agreement between principles")) == 12
    spend = rows_of(html, "Actual spend")
    assert spend["labels of the principles"] == ["6.00", "2,880,000", "28,800"]
    assert spend["labels of the baseline"][0] == "0.5000" and spend["in all"][0] == "6.50"
    assert "1.30 USD were spent on labels while the units" in text and "in one request" not in text


def test_trade_offs_budgets_and_fewer_principles(built):
    html, page = built
    text = " ".join(page.text.split())
    assert rows_of(html, "Trade-offs")["max-min"] == ["helpfulness −0.10", "1.20", "80.0 %", "+12.5", "detail hacked"]
    assert rows_of(html, "Budgets")["verdicts"] == ["7,200", "7,200"]
    assert "The arms had equal budgets: " in text
    assert rows_of(html, "Fewer principles")["12"][0].startswith("72.0 %")
    assert rows_of(html, "One principle left out")["conciseness"][1].startswith("−0.11")
    assert list(rows_of(html, "Other scalarizers of the same models")) == ["linear", "max-min", "the longer response"]
    assert rows_of(html, "Win rates if all answers were as long")["max-min vs SFT"][1:] == ["–", "+0.40", "70 %"]
    assert "People prefer responses that score higher on detail." in text


def test_a_language_model_that_judges_here_and_a_policy_from_outside(artifacts, config, tmp_path):
    def elsewhere(details):
        agreement = {
            "judge": {"value": 0.625, "low": 0.306, "high": 0.863, "n": 8},
            "longer": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 8},
            "difference": {"value": 0.1, "low": -0.1, "high": 0.3, "n": 8},
        }
        details["judge"] = {"source": "hf", "name": "hf:judge-1b", "cost": {}, "agreement": agreement}
        details["policies"] = {"base": "hub/base"}
        details["length_controlled"]["multi_vs_base"] = details["length_controlled"]["multi_vs_sft"]

    html, page = build(changed(artifacts(), elsewhere), config, tmp_path / "out", sections=["results", "tradeoffs"])
    assert "hf:judge-1b decides. It agrees with people on 62.5 % [30.6, 86.3] of 8 pairs" in page.text
    assert "max-min vs base" in rows_of(html, "Win rates if all answers were as long")


def test_a_withheld_figure_gives_its_reason(artifacts, config, tmp_path):
    def withhold(details):
        for rate in details["length_controlled"].values():
            rate |= {"value": None, "withheld": "the first answer is longer on 100% of 60 prompts"}

    html, _ = build(changed(artifacts(), withhold), config, tmp_path / "out", sections=["results", "tradeoffs"])
    ((rate, *_),) = rows_of(html, "Win rates if all answers were as long").values()
    assert rate == "withheld: the first answer is longer on 100% of 60 prompts"


def test_an_evaluation_without_them_has_a_page_too(artifacts, config, tmp_path):
    def bare(details):
        empty = {key: [] for key in ("models", "labels", "value", "low", "high", "n")}
        details |= {"cross_accuracy": empty, "sacrificed": {"pm": {}, "truth": None}, "hacking": {}}
        details |= {"pareto": {"models": None, "truth": None}, "budget": {"arms": {}, "equal": True, "differs": []}}
        details |= {key: {} for key in ("scalarizer_accuracy", "length_controlled", "length_baseline")}
        details |= {"ablation": None, "regression": None}

    _, page = build(changed(artifacts(), bare), config, tmp_path / "out")
    assert page.misnested == [] and "Trade-offs" not in page.text and "Fewer principles" not in page.text


def rows_of(html: str, name: str) -> dict[str, list[str]]:
    """The cells of the table `name` by the head of their row."""
    (table,) = re.findall(rf'aria-label="{name}">.*?</table>', html, re.DOTALL)
    cells = [[" ".join(Page(cell).text.split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
             for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]  # fmt: skip
    return {row[0]: row[1:] for row in cells[1:]}


def changed(folders, change) -> dict:
    file = folders["evaluate"] / "details.json"
    details = json.loads(file.read_text())
    change(details)
    file.write_text(json.dumps(details))
    return folders


def test_the_halo_of_joint_labels_its_audit_and_the_judge_are_paid_for(artifacts, config, tmp_path):
    found = {
        "pairs": 40, "same_side": {"value": 0.93, "low": 0.88, "high": 0.96, "n": 480}, "mean_difference": 0.06,
        "correlation_joint": 0.41, "correlation_separate": 0.22, "halo": 0.19, "usd": 0.5, "requests": 960,
    }  # fmt: skip

    def audited(details):
        details["labels"]["halo"] = found
        for name, quality in details["label_quality"].items():
            quality["halo"] = found | {"usd": 0.5 if name == "detail" else 0.0}  # whoever came first paid
        details["judge"]["cost"] = {"input_tokens": 1000.0, "output_tokens": 10.0, "usd": 0.004}

    html, page = build(changed(artifacts(), audited), config, tmp_path / "out", sections=["labels"])
    text = " ".join(page.text.split())
    assert "On 40 pairs that were asked apart as well, 93.0 % of the labels keep their side (88.0–96.0)" in text
    assert "0.41 together and 0.22 apart: a halo of +0.19." in text
    spend = rows_of(html, "Actual spend")
    assert spend["audit of joint labels"] == ["0.5000", "–", "–"]
    assert spend["judge of the policies"] == ["0.0040", "1,000", "10"] and spend["in all"][0] == "7.00"
    joint = config | {"feedback": config["feedback"] | {"mode": "joint"}}
    _, page = build(artifacts(), joint, tmp_path / "unaudited", sections=["labels"])
    assert "so their halo is unknown" in page.text


def test_labels_that_no_human_gave_and_nobody_paid_for(artifacts, config, tmp_path):
    def bare(details):
        for quality in details["label_quality"].values():
            for split in ("train", "eval"):
                unknown = {"value": None, "low": None, "high": None, "n": 0}
                quality[split] |= {"agreement_human": unknown, "kappa_human": unknown, "cost": {}, "invalid": {}}

    free = config | {"feedback": {"source": "rules"}}
    html, page = build(changed(artifacts(), bare), free, tmp_path / "out", sections=["labels"])
    text = " ".join(page.text.split())
    assert "No human labels: these pairs have none" in text and "κ with humans" not in text
    assert "Nothing: the toy world’s own rules asked for no money." in text and 'aria-label="Actual spend"' not in html
    assert len(rows_of(html, "Label quality")["detail"]) == 7 and "left out" not in text.split("Label quality")[1]


def test_hostile_text_stays_text(built, hostile):
    html, page = built
    assert "<script" not in html and "<img" not in html and page.text.count(hostile.strip()) == 4
    assert "&lt;script&gt;alert(" in html and "49" not in page.text.split("onerror")[1][:60]


def test_the_record_of_the_run_is_filled_in_and_replaced(built, run_record, hostile):
    html, _ = built
    page = add_run(html, run_record | {"command": f"morlaif name={hostile}"})
    text = " ".join(Page(page).text.split())
    assert "4 units: 1 built, 1 cached, 1 failed, 1 not run" in text
    assert "b1b2c3d4e5f60718" in text and "git checkout 0123456789abcdef" in text and "with local changes" in text
    assert "<script" not in page
    again = add_run(add_run(html, run_record), run_record)
    assert again == add_run(html, run_record)
    assert Page(again).misnested == []
    assert add_run(html, {}).count("<!--run-->") == 1
    with pytest.raises(ValueError, match="not a morlaif report"):
        add_run("<html></html>", run_record)


@pytest.mark.parametrize(
    "options",
    [
        {"arms": ("single",)},
        {"arms": ("multi",), "principles": ("preference",), "truth": False},
        {"principles": ("helpfulness", "ethicality"), "truth": False},
        {"arms": ("single", "multi")},
    ],
    ids=["baseline alone", "one principle, human labels", "two principles, gold judge", "arms swapped"],
)
def test_small_runs_have_a_page_too(artifacts, config, tmp_path, options):
    html, page = build(artifacts(**options), config, tmp_path / "out")
    alone = len(options.get("principles", "many")) == 1 or options.get("arms") == ("single",)
    left_out = 6 if alone else 2 if options.get("arms") == ("single", "multi") else 0  # nothing to compare
    assert page.misnested == [] and len(page.all("figure")) == len(FIGURES) - len(ELSEWHERE) - left_out
    assert "nan" not in page.text.lower().split() and "None" not in html.split('id="config"')[0]


def test_unknown_values_are_a_dash(artifacts, config, tmp_path):
    folders = artifacts(truth=False)
    file = folders["evaluate"] / "results.json"
    results = json.loads(file.read_text())
    unknown = {"value": None, "low": None, "high": None, "n": 0}
    results["pm_accuracy"]["detail"] = unknown
    results["objective_accuracy"]["multi"]["human"] = unknown
    results["win_rate"]["multi_vs_sft"] |= unknown | {"win": None, "tie": None, "loss": None, "flip_rate": None}
    file.write_text(json.dumps(results))
    _, page = build(folders, config, tmp_path / "out", sections=["results", "models"])
    assert "no valid verdict" in page.text


def test_equal_artifacts_give_equal_bytes(built, artifacts, config, tmp_path):
    again, _ = build(artifacts(), config, tmp_path / "again")
    assert again == built[0]


def test_a_run_without_evaluation_is_reported_in_one_line(config):
    with pytest.raises(UserError, match="no unit 'evaluate'"):
        load({}, config)


def test_what_was_too_long_is_reported_beside_the_accuracies(built):
    _, page = built
    assert "Too long for the models: 12 training pairs and 3 held-out ones" in page.text
    assert "cut to 96 tokens, on both sides alike, by 3,400 tokens" in page.text and "left out: 1." in page.text


MINE = "morlaif_plugin.brevity.brevity"


def test_a_section_of_another_package_is_shown_in_its_place(plugin, artifacts, config, tmp_path):
    html, page = build(artifacts(), config, tmp_path / "out", sections=["results", MINE, "config"])
    assert re.findall(r'<section id="(.*?)"', html) == ["results", "brevity", "config", "run"]
    assert page.misnested == [] and '<a href="#brevity">Brevity</a>' in html
    assert rows_of(html, "Length of a response")["max-min"] == ["31.0", "38.2"]


def test_a_drawing_of_ones_own_is_on_the_page_and_hostile_words_stay_text(artifacts, config, hostile, tmp_path):
    drawing = Drawing("mine", FIGURES["win_rates"], hostile)
    section = Section("mine", hostile, [Panel(hostile, hostile, figure="mine")], [drawing])
    with mock.patch.object(sections, "results", lambda run: section, create=True):
        html, page = build(artifacts(), config, tmp_path / "out", sections=["results"])
    assert html.count('<figure id="fig-mine">') == 1 and page.misnested == []
    assert "<script" not in html and page.text.count(hostile.strip()) == 5


def test_what_is_wrong_with_a_section_is_reported(artifacts, config, tmp_path):
    assert chosen(ReportSettings(sections=list(OURS))) is None
    for names, said in (
        (["result"], "no section 'result'. Did you mean 'results'?"),
        (["json.dumping"], "'json' has no 'dumping'"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            chosen(ReportSettings(sections=names))
    for made, said in (
        (3, "object of type int"),
        (Section("a b", "t"), "letters, digits"),
        (Section("run", "t"), "another"),
    ):
        with (
            mock.patch.object(sections, "results", lambda run, made=made: made),
            pytest.raises(UserError, match=said),
        ):
            build(artifacts(), config, tmp_path / said, sections=["results"])
