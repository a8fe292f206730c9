"""Finding runs, whatever store they lie in, and what decides a comparison's digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from morlaif.errors import UserError
from morlaif.evaluation.results import LAYOUT
from morlaif.pipeline.compare import find, read, unit_of
from morlaif.report.comparison.settings import CompareSettings
from morlaif.units.integrity import write_manifest
from morlaif.units.store import Store

RULES = {"source": "rules"}
SETTINGS = CompareSettings(runs=None, prompts=None, spend=False)


def make_run(root: Path, name: str, judge: dict[str, Any] = RULES, store: str = "store", **more: Any) -> Path:
    """A run folder and its units in a store, as far as a comparison looks at them before it reads their content."""
    folder, status, version = root / "runs" / name, more.pop("status", "succeeded"), more.pop("version", LAYOUT)
    folder.mkdir(parents=True)
    units = [("evaluate", "evaluate", f"e{name}"), ("ppo/morlaif", "ppo", f"p{name}"), ("sft", "sft", "s")]
    config = {
        "paths": {"store": str(root / store)}, "seed": 0, "scalarizer": {"name": name},
        "eval": {"judge": judge, "confidence": 0.95, "resamples": 200}, **more,
    }  # fmt: skip
    record = {
        "status": status, "pid": 0, "seconds": 1.0, "error": None,
        "units": [{"name": n, "stage": s, "digest": d, "state": "built", "error": None} for n, s, d in units],
    }  # fmt: skip
    if status == "failed":
        record["units"][0] |= {"state": "failed", "error": "ValueError: no"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.json").write_text(json.dumps(record))
    for _, stage, digest in units:
        if status == "failed" and stage == "evaluate":
            continue
        out = root / store / stage / digest
        out.mkdir(parents=True, exist_ok=True)
        principles = [{"name": "helpfulness", "covers": ["helpfulness"]}]
        if stage == "evaluate":
            (out / "responses.jsonl").write_text("")
        about = {"stage": stage, "digest": digest, "summary": {}, "seconds": 1.0, "version": version}
        about["reads"] = {"principles": principles, "arms": [{"name": "morlaif", "method": "ppo"}]}
        write_manifest(out, about)
    return folder


def test_runs_are_found_by_name_and_by_glob(tmp_path, monkeypatch):
    one, two = make_run(tmp_path, "linear-1"), make_run(tmp_path, "max_min-2")
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    assert find(["linear-1"], runs) == [one] and find(["runs/*"], runs) == [one, two]
    assert find([str(two), "*-*"], runs) == [two, one], "each once, in the order in which they were asked for"
    with pytest.raises(UserError, match=r"matches 'linaer-1'\. Did you mean 'linear-1'"):
        find(["linaer-1"], runs)


def test_a_run_is_read_from_its_own_store_or_from_that_of_the_command(tmp_path):
    folder = make_run(tmp_path, "a", store="elsewhere")
    run = read(folder, Store(tmp_path / "store"))
    assert run.evaluated and run.why == "" and run.folders["evaluate/ea"] == tmp_path / "elsewhere" / "evaluate" / "ea"
    (tmp_path / "elsewhere").rename(tmp_path / "moved")
    assert read(folder, Store(tmp_path / "moved")).evaluated
    lost = read(folder, Store(tmp_path / "store"))
    assert not lost.evaluated and "in a store that can be reached" in lost.why


def test_a_failed_run_says_why_and_a_folder_that_is_none_is_none(tmp_path):
    run = read(make_run(tmp_path, "a", status="failed"), Store(tmp_path / "store"))
    assert not run.evaluated and run.why == "evaluate: ValueError: no"
    assert read(tmp_path, Store(tmp_path / "store")) is None


@pytest.fixture
def digest(tmp_path):
    """digest(**changes) of the comparison of two runs, made anew."""

    def make(number: int, judge: dict[str, Any] = RULES, settings: CompareSettings = SETTINGS, human: Any = None):
        root = tmp_path / str(number)
        folders = [make_run(root, name, judge) for name in ("a", "b")]
        if human is not None:
            (folders[0] / "human.json").write_text(json.dumps(human))
        return unit_of([read(folder, Store(root / "store")) for folder in folders], settings)

    return make


def test_the_digest_covers_what_is_read_and_not_where_it_lies(digest):
    first = digest(0)
    assert digest(1).digest == first.digest, "another place, the same comparison"
    assert digest(2, human={"comparisons": {}}).digest != first.digest, "people have rated"
    assert digest(3, settings=SETTINGS.model_copy(update={"prompts": 5})).digest != first.digest
    assert [(asked.judge.source, asked.why_not) for asked in first.reads.judges] == [("rules", "")] * 2


def paid(price: float) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("morlaif.conf", version_base="1.3"):
        tree = compose("config", ["eval=default"])
    judge = OmegaConf.to_container(tree.eval.judge, resolve=True)
    judge["engine"]["price"] = dict.fromkeys(judge["engine"]["price"], price)
    return judge


@pytest.mark.slow
def test_a_judge_that_costs_money_is_asked_only_with_leave(digest):
    told, *_ = digest(0, judge=paid(1.0)).reads.judges
    assert told.judge is None and "compare.spend=true asks for the rest" in told.why_not
    ready = digest(1, judge=paid(1.0), settings=SETTINGS.model_copy(update={"spend": True})).reads.judges
    assert all(asked.judge is not None for asked in [*ready, *digest(2, judge=paid(0.0)).reads.judges])


def test_each_run_offers_its_judge_where_it_can_be_asked(tmp_path):
    judges = [RULES, {"source": "pm"}, {"source": "a judge of later versions"}]
    folders = [make_run(tmp_path, name, judge) for name, judge in zip("abc", judges, strict=True)]
    first, second, third = unit_of(
        [read(folder, Store(tmp_path / "store")) for folder in folders], SETTINGS
    ).reads.judges
    assert first.judge.source == "rules" and second.judge.source == "pm"
    assert third.judge is None and "not known to this version" in third.why_not


def spoiled(text: str | bytes | dict):
    def spoil(path: Path) -> None:
        raw = json.dumps(text) if isinstance(text, dict) else text
        path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())

    return spoil


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


RECORD = {"status": "succeeded", "seconds": 1.0, "units": []}
BAD = [  # a file of the run folder, what is done to it, what is said
    ("run.json", spoiled(""), "run.json: is empty"),
    ("run.json", spoiled('{"status": "succ'), "run.json: breaks off"),
    ("run.json", spoiled("[]"), "run.json: holds a list"),
    ("run.json", spoiled(b"\xff"), "is not UTF-8"),
    ("run.json", spoiled("[" * 50_000), "nested too deeply"),
    ("run.json", spoiled('{"seconds": ' + "9" * 5_000 + "}"), "4,300 digits"),
    ("run.json", as_folder, "run.json: is a folder"),
    ("run.json", spoiled({}), "status is None"),
    ("run.json", spoiled(RECORD | {"status": "finished"}), "written by another version"),
    ("run.json", spoiled(RECORD | {"units": {"sft": "0"}}), "units is no list of units"),
    ("run.json", spoiled(RECORD | {"units": [{"name": "sft"}]}), "units[0].stage is no text"),
    ("run.json", spoiled(RECORD | {"seconds": "long"}), "seconds is no number"),
    ("config.json", spoiled("{"), "config.json: breaks off"),
    ("config.json", Path.unlink, "config.json: no such file"),
    ("config.json", spoiled({"paths": {"store": "s"}}), "no seed as this version writes it"),
    ("human.json", spoiled("x"), "human.json, column 1: not JSON"),
    ("human.json", as_folder, "human.json: is a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "spoil", "told"), BAD, ids=[told for *_, told in BAD])
def test_a_damaged_run_is_found_and_left_out_with_its_reason(tmp_path, file, spoil, told):
    folder = make_run(tmp_path, "a")
    spoil(folder / file)
    assert find(["a"], tmp_path / "runs") == [folder]
    run = read(folder, Store(tmp_path / "store"))
    assert not run.evaluated and told in run.why and "\n" not in run.why


def test_a_damaged_artifact_leaves_its_run_out(tmp_path):
    folder, other = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    (tmp_path / "store" / "evaluate" / "ea" / "responses.jsonl").write_text("more")
    assert "responses.jsonl has 4 bytes of 0; run it again" in read(folder, Store(tmp_path / "store")).why
    assert read(other, Store(tmp_path / "store")).evaluated


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("runs/a/run.json", "is a file: name the run's folder, 'a'."),
        ("notes.txt", "is a file: name the run's folder."),
        ("empty", "is a folder without run.json"),
        ("zzz", "which has 1 runs"),
        ("x" * 5_000, "no run folder matches"),
        ("a\0b", "no run folder matches"),
        ("[!", "no run folder matches"),
    ],
)
def test_a_pattern_that_names_no_run(tmp_path, monkeypatch, pattern, told):
    make_run(tmp_path, "a")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"compare\.runs") as caught:
        find([pattern], tmp_path / "runs")
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_of_an_older_layout_is_left_out_with_its_version(tmp_path):
    run = read(make_run(tmp_path, "a", version=LAYOUT - 1), Store(tmp_path / "store"))
    assert not run.evaluated and f"evaluated by version {LAYOUT - 1} of the stage" in run.why and "\n" not in run.why


def test_why_each_run_is_left_out(tmp_path):
    store = Store(tmp_path / "store")
    made = {status: read(make_run(tmp_path, status, status=status), store) for status in ("interrupted", "failed")}
    assert made["failed"].why == "evaluate: ValueError: no"
    early = make_run(tmp_path, "early")
    record = json.loads((early / "run.json").read_text())
    (early / "run.json").write_text(json.dumps(record | {"units": record["units"][2:]}))
    assert read(early, store).why == "it made no evaluation; run it with stages=[evaluate]"


def test_a_run_whose_policy_is_gone_is_left_out_whatever_its_method(tmp_path):
    folder = make_run(tmp_path, "a")
    evaluation = tmp_path / "store" / "evaluate" / "ea"
    arms = [{"name": "untouched", "method": "untouched"}]
    about = {"stage": "evaluate", "digest": "ea", "summary": {}, "seconds": 1.0, "version": LAYOUT}
    (evaluation / "manifest.json").unlink()
    write_manifest(evaluation, about | {"reads": {"principles": [], "arms": arms}})
    assert not read(folder, Store(tmp_path / "store")).evaluated
    record = json.loads((folder / "run.json").read_text())
    record["units"].append({"name": "untouched/untouched", "stage": "untouched", "digest": "u", "state": "built"})
    (folder / "run.json").write_text(json.dumps(record))
    out = tmp_path / "store" / "untouched" / "u"
    out.mkdir(parents=True)
    write_manifest(out, {"stage": "untouched", "digest": "u", "summary": {}, "seconds": 1.0})
    assert read(folder, Store(tmp_path / "store")).evaluated
