"""Finding runs, whatever store they lie in, and what decides a comparison's digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from morlaif.errors import UserError
from morlaif.pipeline.compare import find, read, unit_of
from morlaif.pipeline.store import Store
from morlaif.report.comparison.settings import CompareSettings

RULES = {"source": "rules"}
SETTINGS = CompareSettings(runs=None, prompts=None, spend=False)


def make_run(root: Path, name: str, judge: dict[str, Any] = RULES, store: str = "store", **more: Any) -> Path:
    """A run folder and its units in a store, as far as a comparison looks at them before it reads their content."""
    folder, status = root / "runs" / name, more.pop("status", "succeeded")
    folder.mkdir(parents=True)
    units = [("evaluate", "evaluate", f"e{name}"), ("ppo/multi", "ppo", f"p{name}"), ("sft", "sft", "s")]
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
        (out / "manifest.json").write_text(json.dumps({"reads": {"principles": principles}}))
        if stage == "evaluate":
            (out / "responses.jsonl").write_text("")
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
    assert first.reads["judge"].source == "rules" and first.reads["why_not"] == ""


def paid(price: float) -> dict[str, Any]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("morlaif.conf", version_base="1.3"):
        tree = compose("config", ["eval=default"])
    judge = OmegaConf.to_container(tree.eval.judge, resolve=True)
    judge["engine"]["price"] = dict.fromkeys(judge["engine"]["price"], price)
    return judge


def test_a_judge_that_costs_money_is_asked_only_with_leave(digest):
    told = digest(0, judge=paid(1.0)).reads
    assert told["judge"] is None and "compare.spend=true asks for the rest" in told["why_not"]
    assert digest(1, judge=paid(1.0), settings=SETTINGS.model_copy(update={"spend": True})).reads["judge"] is not None
    assert digest(2, judge=paid(0.0)).reads["judge"] is not None


def test_runs_of_different_judges_are_not_judged_again(tmp_path):
    folders = [make_run(tmp_path, "a"), make_run(tmp_path, "b", judge={"source": "pm"})]
    reads = unit_of([read(folder, Store(tmp_path / "store")) for folder in folders], SETTINGS).reads
    assert reads["judge"] is None and "different judges" in reads["why_not"]
