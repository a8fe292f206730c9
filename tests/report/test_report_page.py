"""The page holds all it shows, asks the network for nothing, and survives hostile text and small runs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from morlaif.launch.settings import HardwareSettings
from morlaif.report.data import load
from morlaif.report.figures import FIGURES
from morlaif.report.page import add_run
from morlaif.stages import report
from morlaif.stages.job import Job

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


def build(folders, config, out) -> tuple[str, Page]:
    out.mkdir()
    hardware = HardwareSettings.model_construct(device="cpu", dtype="float32", threads=1)
    job = Job("report", "report", "0" * 16, {"config": config}, folders, out, out, out, 0, hardware, lambda *_: None)
    assert report.build(job)["bytes"] < 2_000_000
    html = (out / "report.html").read_text()
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


def test_every_figure_is_drawn_spoken_and_backed_by_a_table(built):
    html, page = built
    drawings = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(drawings) == len(FIGURES) == len(page.all("figure"))
    assert all(len(drawing["aria-label"]) > 20 for drawing in drawings)
    for figure in re.findall(r"<figure.*?</figure>", html, re.DOTALL):
        assert "<table>" in figure
        colours = set(re.findall(r"#[0-9a-f]{6}\b", figure))
        assert colours <= {"#000000"}, "a colour that does not follow light and dark"
        assert "var(--ink)" in figure or "var(--muted)" in figure


def test_png_figures_and_numbers(built, out):
    for name in FIGURES:
        data = (out / "figures" / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 5000
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["results"]["win_rate"]["policy_vs_sft"]["value"] == 0.86
    assert len(numbers["curves"]["multi"]) == 25


def test_the_page_says_what_it_measured(built):
    text = " ".join(built[1].text.split())
    assert "A policy aligned with 12 preference models by max-min scalarization" in text
    assert "86.0 %" in text and "Better: the whole interval is above one half." in text
    assert "No clear difference: the interval holds one half." in text
    assert "on 300 held-out prompts" in text
    for word in ("understandability", "Label quality", "agrees with truth", "KL coefficient 0.05", "53.0 %"):
        assert word in text, word


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
    assert page.misnested == [] and len(page.all("figure")) == len(FIGURES)
    assert "nan" not in page.text.lower().split() and "None" not in html.split('id="config"')[0]


def test_unknown_values_are_a_dash(artifacts, config, tmp_path):
    folders = artifacts(truth=False)
    file = folders["evaluate"] / "results.json"
    results = json.loads(file.read_text())
    unknown = {"value": None, "low": None, "high": None, "n": 0}
    results["pm_accuracy"]["detail"] = unknown
    results["objective_accuracy"]["multi"]["human"] = unknown
    results["win_rate"]["policy_vs_sft"] |= unknown | {"wins": None, "ties": None, "losses": None, "flips": None}
    file.write_text(json.dumps(results))
    _, page = build(folders, config, tmp_path / "out")
    assert "no valid verdict" in page.text


def test_equal_artifacts_give_equal_bytes(built, artifacts, config, tmp_path):
    again, _ = build(artifacts(), config, tmp_path / "again")
    assert again == built[0]


def test_a_run_without_evaluation_is_said_in_one_line(config):
    from morlaif.errors import UserError

    with pytest.raises(UserError, match="no unit 'evaluate'"):
        load({}, config)
