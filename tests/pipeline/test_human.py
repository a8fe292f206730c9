"""Ratings by people from the command line: a form out, answers in, on the run's page; nothing is built."""

from __future__ import annotations

import argparse
import csv
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import cli
import pytest
from human_cases import make_rows
from rich.console import Console

from morlaif.cli import HUMAN_SPELLINGS
from morlaif.compose import Composed, look_ahead, register
from morlaif.config import Paths
from morlaif.errors import UserError
from morlaif.evaluation.human.settings import HumanStudySettings
from morlaif.pipeline import compare
from morlaif.pipeline.human import rate
from morlaif.pipeline.record import Run
from morlaif.pipeline.run import gather_report
from morlaif.planning.plan import plan
from morlaif.units.store import Store

ARMS = {
    "multi": {"labels": "principles", "models": [], "title": "linear"},
    "single": {"labels": "constitution", "models": ["single"], "title": "single PM"},
}
PAGE = '<nav><a href="#run">Run</a></nav><main><section id="run"><!--run-->old<!--/run--></section></main>'


@cache
def composed(*overrides: str) -> Composed:
    register()
    flags = argparse.Namespace(config_dir=None, overrides=list(overrides), multirun=False)
    return look_ahead(flags)[0][0]


def job(tmp_path: Path, **human: Any) -> Composed:
    """The default run with its places in `tmp_path`, and keys of the group `human`; composed once, it takes long."""
    base = composed()
    settings = HumanStudySettings.model_validate(base.config.human.model_dump() | human)
    places = Paths(store=tmp_path / "store", runs=tmp_path / "runs")
    return base._replace(config=base.config.model_copy(update={"paths": places, "human": settings}))


@pytest.fixture
def finished(tmp_path) -> Path:
    """A run folder and the units of its store that people's ratings read, as a run leaves them."""
    made = job(tmp_path)
    folder = made.config.paths.runs / made.run_name
    record = Run.open(folder, made.config, "morlaif", [])
    units = plan(made.config)
    record.plan(units)
    record.close("succeeded")
    store, rows = Store(made.config.paths.store), make_rows(30, ("sft", "multi", "single"))
    for name, files in {
        "evaluate": {
            "responses.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "details.json": json.dumps({"arms": ARMS}),
        },
        "report": {"report.html": PAGE},
    }.items():

        def write(out: Path, keep: Path, files=files) -> dict[str, Any]:
            for file, text in files.items():
                (out / file).write_text(text)
            return {}

        store.build(units.by_name[name], write)
    (folder / "report.html").write_text(PAGE)
    return folder


def human(tmp_path: Path, action: str, **keys: Any) -> str:
    made = job(tmp_path, action=action, **keys)
    console = Console(record=True, width=80, file=open(os.devnull, "w"))  # noqa: SIM115
    rate(made.config, made.run_name, console)
    return console.export_text()


def return_answers(folder: Path, rater: str, prefers: str = "multi", fails: bool = False) -> None:
    key = json.loads((folder / "human" / "key.json").read_text())
    wanted = {prefers, "off_topic" if fails else "on_topic"}
    rows = [
        {"item": id_, "answer": next((s for s in "ab" if item[s] in wanted), "tie"), "seconds": 4, "comment": ""}
        for id_, item in key["items"].items()
    ]
    file = {"form": key["form"], "rater": rater, "answers": rows}
    (folder / "human" / "answers" / f"{rater}.json").write_text(json.dumps(file))


@pytest.mark.slow
def test_from_the_form_to_the_page(finished, tmp_path):
    store = sorted(path for path in (tmp_path / "store").rglob("*"))
    told = human(tmp_path, "export", prompts=10)
    assert "24 items: 20 pairs, 2 of them again" in told and "keep to yourself" in told
    assert "multi" not in (finished / "human" / "form.html").read_text()
    form = (finished / "human" / "form.html").read_bytes()
    human(tmp_path, "export", prompts=10)
    assert (finished / "human" / "form.html").read_bytes() == form

    return_answers(finished, "Ann")
    return_answers(finished, "Bob", prefers="single", fails=True)
    told = human(tmp_path, "import")
    assert "Bob: 24 of 24 answered, 2 of 2 known pairs failed, 4 s a pair  left out" in told.replace("\n", " ")
    found = json.loads((finished / "human.json").read_text())
    assert set(found["comparisons"]) == {"multi_vs_single", "multi_vs_sft"}
    assert (found["comparisons"]["multi_vs_single"]["win"], found["comparisons"]["multi_vs_single"]["n"]) == (1.0, 10)
    page = (finished / "report.html").read_text()
    assert page.count("What people preferred") == 1 and "linear vs single PM" in page and "win 100.0 %" in page

    return_answers(finished, "Bob", prefers="single")
    human(tmp_path, "import")  # takes the place of what was there
    page = (finished / "report.html").read_text()
    assert page.count('<a href="#people">') == 1
    assert page.count("What people preferred") == 1 and "win 50.0 %" in page and "2 of 2 raters kept" in page
    with (finished / "human" / "ratings.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 48 and {row["preferred"] for row in rows} >= {"multi", "single", "tie", "on_topic"}
    kept = sorted(path for path in (tmp_path / "store").rglob("*") if "contests" not in path.parts)
    assert kept == store, "nothing of the run is built anew"
    assert found["comparisons"]["multi_vs_single"]["judge"]["n"] == 10 and "<dt>judge</dt>" in page


@pytest.mark.slow
def test_the_page_of_a_run_that_runs_again_keeps_what_people_answered(finished, tmp_path):
    human(tmp_path, "export", prompts=5)
    return_answers(finished, "Ann")
    human(tmp_path, "import")
    made = job(tmp_path)
    record = Run.open(finished, made.config, "morlaif", [])
    gather_report(plan(made.config), Store(made.config.paths.store), record)
    page = (finished / "report.html").read_text()
    assert "What people preferred" in page and "<!--run-->old" not in page


def test_a_comparison_reads_what_people_answered(finished, tmp_path):
    """`human.json` is in the form that the page of several runs draws."""
    human(tmp_path, "export", prompts=5, pairs=["multi_vs_sft"])
    return_answers(finished, "Ann")
    human(tmp_path, "import")
    store = Store(tmp_path / "store")
    run = compare.read(finished, store)
    said = compare._reads(run)["human"]["comparisons"]
    assert {part: said["multi_vs_sft"][part] for part in ("win", "tie", "loss", "n")} == {
        "win": 1.0, "tie": 0.0, "loss": 0.0, "n": 5
    }  # fmt: skip
    assert not [key for key in compare._reads(run)["config"] if key.startswith("human")]


@pytest.mark.slow
def test_people_are_in_no_digest(tmp_path):
    plain, rated = composed(), composed("human=export", "human.prompts=7", "human.seed=9")
    assert rated.config.human.action == "export" and rated.config.human.prompts == 7
    assert plain.run_name == rated.run_name
    digests = [[unit.digest for unit in plan(made.config).units] for made in (plain, rated)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"pairs": ["multi_vs_sfft"]}, "human.pairs: 'multi_vs_sfft': no policy 'sfft'. Did you mean 'sft'?"),
        ({"pairs": "multi"}, "human.pairs: 'multi' is no pair of policies, such as multi_vs_sft."),
        ({"run": "nothing"}, "human.run: no run folder matches 'nothing'."),
    ],
)
def test_a_mistake_of_export(finished, tmp_path, keys, line):
    with pytest.raises(UserError, match="human") as error:
        human(tmp_path, "export", **keys)
    assert line in str(error.value) and not (finished / "human").exists()


def test_a_key_that_raters_depend_on_is_not_overwritten(finished, tmp_path):
    human(tmp_path, "export", prompts=5)
    key = (finished / "human" / "key.json").read_bytes()
    with pytest.raises(UserError, match="is the key of another form"):
        human(tmp_path, "export", prompts=6)
    assert (finished / "human" / "key.json").read_bytes() == key
    human(tmp_path, "export", prompts=6, folder=tmp_path / "second")
    assert (tmp_path / "second" / "form.html").is_file()


def test_a_mistake_of_import_leaves_everything_as_it_was(finished, tmp_path):
    with pytest.raises(UserError, match="export a form first"):
        human(tmp_path, "import")
    human(tmp_path, "export", prompts=5)
    with pytest.raises(UserError, match=r"human.answers: no .json or .csv file of a rater in"):
        human(tmp_path, "import")
    return_answers(finished, "Bob", fails=True)
    with pytest.raises(UserError, match=r"every rater failed more than human.max_failed"):
        human(tmp_path, "import")
    (finished / "human" / "answers" / "Cid.json").write_text("{")
    with pytest.raises(UserError, match=r"Cid.json: breaks off"):
        human(tmp_path, "import")
    assert not (finished / "human.json").exists() and (finished / "report.html").read_text() == PAGE


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content", "line"), [
    ("Ann.json", None, "is a folder; expected a file, answers as the form saved them"),
    ("Ann.json", b"", "Ann.json: is empty"),
    ("Ann.csv", "form,rater".encode("utf-16"), "Ann.csv: is UTF-16; expected answers as the form saved them, saved as"),
    ("Ann.csv", "form,râter".encode("latin-1"), "Ann.csv: byte 0xe2 is not UTF-8"),
    ("key.json", b"[]", "key.json: holds a list where an object should be"),
    ("key.json", None, "key.json: is a folder"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_leaves_everything_as_it_was(finished, tmp_path, name, content, line):
    human(tmp_path, "export", prompts=5)
    return_answers(finished, "Bob")
    file = finished / "human" / (name if name == "key.json" else f"answers/{name}")
    file.unlink(missing_ok=True)
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(UserError) as error:
        human(tmp_path, "import")
    assert line in str(error.value).split("\n")[0]
    assert not (finished / "human.json").exists() and (finished / "report.html").read_text() == PAGE
    assert not (finished / "human" / "ratings.csv").exists()


@pytest.mark.slow
def test_a_page_that_is_none_stops_the_import_before_anything_is_written(finished, tmp_path):
    human(tmp_path, "export", prompts=5)
    return_answers(finished, "Bob")
    (finished / "report.html").write_text("<html>")
    with pytest.raises(UserError, match="is not the page that a run leaves; start the run's command again"):
        human(tmp_path, "import")
    assert not (finished / "human.json").exists() and not (finished / "human" / "ratings.csv").exists()


@pytest.mark.slow
def test_an_export_where_no_folder_can_be(finished, tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"human.folder=.*file.*; name a folder"):
            human(tmp_path, "export", prompts=5, folder=folder)
    (finished / "human").mkdir()
    (finished / "human" / "form.html").mkdir()
    with pytest.raises(UserError, match=r"human.folder=.*form.html: "):
        human(tmp_path, "export", prompts=5)
    (finished / "human" / "key.json").write_text("{}")
    with pytest.raises(UserError, match=r"key.json: run: is missing \(and 4 more\)"):
        human(tmp_path, "export", prompts=5)


@pytest.mark.slow
def test_ratings_csv_holds_no_formula(finished, tmp_path):
    human(tmp_path, "export", prompts=5)
    return_answers(finished, "=HYPERLINK(0)")
    human(tmp_path, "import")
    with (finished / "human" / "ratings.csv").open() as stream:
        assert {row["rater"] for row in csv.DictReader(stream)} == {"'=HYPERLINK(0)"}


@pytest.mark.slow
def test_a_rater_s_name_steers_no_terminal(finished, tmp_path):
    human(tmp_path, "export", prompts=5)
    return_answers(finished, "Bob")
    file = finished / "human" / "answers" / "Bob.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rater": "[red]B[/]\x1b[2J\u202eob"}))
    assert "[red]B[/]\\x1b[2J\\u202eob: 12 of 12" in human(tmp_path, "import")


def test_a_run_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"does not exist; name a finished one: human.run=<run>"):
        human(tmp_path, "export")


@pytest.mark.slow
def test_on_the_command_line(finished, tmp_path):
    assert HUMAN_SPELLINGS.sub("human=", "evaluate.human=import") == "human=import"
    done = cli.morlaif(["eval.human=export", f"human.run={finished.name}", "human.prompts=5"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "for raters:" in done.stdout and (finished / "human" / "form.html").is_file()
