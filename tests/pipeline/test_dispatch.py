"""The dispatcher on stages of a few lines, in this process."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from morlaif.errors import UserError
from morlaif.launch.settings import HardwareSettings
from morlaif.pipeline.dispatch import Dispatcher
from morlaif.pipeline.display import Display
from morlaif.pipeline.record import Run, read_run
from morlaif.pipeline.store import Store
from morlaif.pipeline.unit import Plan, Unit
from morlaif.tracking import LocalTracker

CPU = Path(__file__).parents[2] / "conf" / "hardware" / "cpu.yaml"
HARDWARE = HardwareSettings(**yaml.safe_load(CPU.read_text()) | {"workers": 1, "threads": None})


@pytest.fixture
def built(monkeypatch):
    """Stages `first` and `second`; the names of the units that were really built."""
    names: list[str] = []

    def build(job):
        names.append(job.name)
        for need, folder in job.inputs.items():
            assert (folder / "manifest.json").is_file(), need
        job.progress(1, 2, loss=1.0)
        job.progress(2, 2, loss=0.5)
        if job.config.get("mistake"):
            raise UserError("data.path: no such file")
        if job.config.get("crash"):
            raise ZeroDivisionError("one over nothing")
        (job.out / "value").write_text(str(job.seed))
        return {"value": 1}

    for stage in ("first", "second"):
        module = types.ModuleType(f"morlaif.stages.{stage}")
        module.build = build
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return names


def dispatch(tmp_path, *units: Unit) -> tuple[bool, Dispatcher, dict]:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    run = Run(folder, "test", "morlaif", [], 0)
    run.plan(plan := Plan(units))
    tracker = LocalTracker(folder)
    display = Display(Console(file=io.StringIO()))
    dispatcher = Dispatcher(plan, Store(tmp_path / "store"), HARDWARE, run, tracker, display)
    done = dispatcher.build()
    tracker.close()
    return done, dispatcher, read_run(folder)


def states(record: dict) -> dict[str, str]:
    return {unit["name"]: unit["state"] for unit in record["units"]}


def test_builds_in_order_then_finds_all(tmp_path, built):
    first = Unit("first", "first", 1, {})
    second = Unit("second", "second/a", 1, {}, (first,))
    done, _, record = dispatch(tmp_path, first, second)
    assert done and built == ["first", "second/a"]
    assert states(record) == {"first": "built", "second/a": "built"}
    done, _, record = dispatch(tmp_path, first, second)
    assert done and built == ["first", "second/a"]
    assert states(record) == {"first": "cached", "second/a": "cached"}


def test_a_changed_setting_rebuilds_only_what_reads_it(tmp_path, built):
    first = Unit("first", "first", 1, {})
    dispatch(tmp_path, first, Unit("second", "second/a", 1, {"rate": 1}, (first,)))
    _, _, record = dispatch(tmp_path, first, Unit("second", "second/a", 1, {"rate": 2}, (first,)))
    assert states(record) == {"first": "cached", "second/a": "built"}


def test_a_failure_holds_up_only_what_needs_it(tmp_path, built):
    first = Unit("first", "first", 1, {})
    bad = Unit("second", "second/bad", 1, {"crash": True}, (first,))
    above = Unit("second", "second/above", 1, {}, (bad,))
    other = Unit("second", "second/other", 1, {}, (first,))
    done, dispatcher, record = dispatch(tmp_path, first, bad, above, other)
    assert not done and not dispatcher.mistaken
    assert states(record) == {
        "first": "built",
        "second/bad": "failed",
        "second/above": "not_run",
        "second/other": "built",
    }
    failed = next(unit for unit in record["units"] if unit["state"] == "failed")
    assert failed["error"] == "ZeroDivisionError: one over nothing"
    assert "ZeroDivisionError" in (tmp_path / "run" / failed["log"]).read_text()


def test_a_mistake_has_a_line_and_no_traceback(tmp_path, built):
    done, dispatcher, record = dispatch(tmp_path, Unit("first", "first", 1, {"mistake": True}))
    assert not done and dispatcher.mistaken
    assert record["units"][0]["error"] == "data.path: no such file" and record["units"][0]["log"] is None


def test_metrics_are_tracked_when_built_and_when_cached(tmp_path, built):
    unit = Unit("first", "first", 1, {})
    for _ in range(2):
        dispatch(tmp_path, unit)
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [(row["unit"], row["step"], row["metrics"]) for row in rows[-2:]] == [
            ("first", 1, {"loss": 1.0}),
            ("first", 2, {"loss": 0.5}),
        ]
