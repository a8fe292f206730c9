"""The dispatcher on stages of a few lines, in this process."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import types

import pytest
from jobs import made_up
from rich.console import Console

from morlaif.errors import UserError
from morlaif.hardware import HardwareSettings
from morlaif.pipeline.dispatch import Dispatcher
from morlaif.pipeline.display import Display
from morlaif.pipeline.record import Run, failures, read_run
from morlaif.presets import preset
from morlaif.tracking import LocalTracker
from morlaif.units.store import Store
from morlaif.units.unit import Plan, Unit

HARDWARE = HardwareSettings(**preset("hardware", "cpu") | {"workers": 1, "threads": None})


@pytest.fixture
def built(monkeypatch):
    """Stages `first` and `second`; the names of the units that were really built."""
    names: list[str] = []

    def build(job):
        names.append(job.name)
        for need, folder in job.needs.items():
            assert (folder / "manifest.json").is_file(), need
        job.progress(1, 2, loss=1.0)
        job.progress(2, 2, loss=0.5)
        if job.reads.values.get("mistake"):
            raise UserError("data.path: no such file")
        if job.reads.values.get("crash"):
            raise ZeroDivisionError("one over nothing")
        (job.out / "value").write_text(str(job.seed))
        return {"value": 1}

    for stage in ("first", "second"):
        module = types.ModuleType(f"morlaif.stages.work.{stage}")
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
    first = made_up("first", "first", 1, {})
    second = made_up("second", "second/a", 1, {}, (first,))
    done, _, record = dispatch(tmp_path, first, second)
    assert done and built == ["first", "second/a"]
    assert states(record) == {"first": "built", "second/a": "built"}
    done, _, record = dispatch(tmp_path, first, second)
    assert done and built == ["first", "second/a"]
    assert states(record) == {"first": "cached", "second/a": "cached"}


def test_a_changed_setting_rebuilds_only_what_reads_it(tmp_path, built):
    first = made_up("first", "first", 1, {})
    dispatch(tmp_path, first, made_up("second", "second/a", 1, {"rate": 1}, (first,)))
    _, _, record = dispatch(tmp_path, first, made_up("second", "second/a", 1, {"rate": 2}, (first,)))
    assert states(record) == {"first": "cached", "second/a": "built"}


def test_a_failure_holds_up_only_what_needs_it(tmp_path, built):
    first = made_up("first", "first", 1, {})
    bad = made_up("second", "second/bad", 1, {"crash": True}, (first,))
    above = made_up("second", "second/above", 1, {}, (bad,))
    other = made_up("second", "second/other", 1, {}, (first,))
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
    done, dispatcher, record = dispatch(tmp_path, made_up("first", "first", 1, {"mistake": True}))
    assert not done and dispatcher.mistaken
    assert record["units"][0]["error"] == "data.path: no such file" and record["units"][0]["log"] is None


def test_metrics_are_tracked_when_built_and_when_cached(tmp_path, built):
    unit = made_up("first", "first", 1, {})
    for _ in range(2):
        dispatch(tmp_path, unit)
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [(row["unit"], row["step"], row["metrics"]) for row in rows[-2:]] == [
            ("first", 1, {"loss": 1.0}),
            ("first", 2, {"loss": 0.5}),
        ]


def test_a_resumed_unit_says_where_it_goes_on_and_each_step_once(tmp_path, monkeypatch):
    """Killed in step 3, its checkpoint at 2: what was measured before is passed on, what is repeated once."""
    module = types.ModuleType("morlaif.stages.work.first")

    def build(job):
        start = int((job.keep / "step").read_text()) if (job.keep / "step").is_file() else 0
        for step in range(start + 1, 6):
            if step == 3 and not start:
                with (job.keep / "metrics.jsonl").open("a") as rows:
                    rows.write('{"step": 3, "met')  # a kill in the middle of a line
                raise KeyboardInterrupt
            job.progress(step, 5, loss=float(step))
            if step == 2:
                (job.keep / "step").write_text("2")
        return {}

    module.build = build
    monkeypatch.setitem(sys.modules, module.__name__, module)
    unit = made_up("first", "first", 1, {})
    with pytest.raises(KeyboardInterrupt):
        dispatch(tmp_path, unit)
    (tmp_path / "run" / "metrics.jsonl").unlink()  # as each start of a run does
    done, dispatcher, _ = dispatch(tmp_path, unit)
    assert done and "first: goes on after step 2" in dispatcher.display.console.file.getvalue()
    for folder in (tmp_path / "run", tmp_path / "store" / "first" / unit.digest):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [(row["step"], row["metrics"]["loss"]) for row in rows] == [(step, float(step)) for step in range(1, 6)]


def test_a_unit_that_ended_between_its_last_step_and_its_artifact_says_so(tmp_path, monkeypatch):
    module = types.ModuleType("morlaif.stages.work.first")

    def build(job):
        if not (job.keep / "metrics.jsonl").read_text().strip():
            job.progress(1, 1, loss=0.5)
            raise KeyboardInterrupt
        return {}

    module.build = build
    monkeypatch.setitem(sys.modules, module.__name__, module)
    unit = made_up("first", "first", 1, {})
    with pytest.raises(KeyboardInterrupt):
        dispatch(tmp_path, unit)
    done, dispatcher, _ = dispatch(tmp_path, unit)
    assert done and "first: goes on after step 1, its last" in dispatcher.display.console.file.getvalue()


def test_a_damaged_artifact_is_built_again_and_the_record_says_so(tmp_path, built):
    first = made_up("first", "first", 1, {})
    dispatch(tmp_path, first)
    (tmp_path / "store" / "first" / first.digest / "value").write_text("more than that")
    done, _, record = dispatch(tmp_path, first)
    assert done and built == ["first", "first"]
    (unit,) = record["units"]
    assert unit["state"] == "built" and "value has 14 bytes of" in unit["damaged"] and ".damaged" in unit["damaged"]


def test_a_stage_that_stumbles_over_a_damaged_need_says_so_and_sets_it_aside(tmp_path, built, monkeypatch):
    """Damaged under an unchanged time, which only reading finds: the next start builds it again."""
    first = made_up("first", "first", 1, {})
    second = made_up("second", "second/a", 1, {"crash": True}, (first,))
    dispatch(tmp_path, first)
    value = tmp_path / "store" / "first" / first.digest / "value"
    times, text = value.stat(), value.read_text()
    value.write_text(text[:-1] + ("1" if text[-1] == "0" else "0"))
    os.utime(value, ns=(times.st_atime_ns, times.st_mtime_ns))
    done, dispatcher, record = dispatch(tmp_path, first, second)
    assert not done and not dispatcher.mistaken
    assert record["units"][1]["error"].startswith("it needs first; ") and record["units"][1]["log"] is None
    assert states(dispatch(tmp_path, first)[2]) == {"first": "built"}


class Full(Exception):
    """As a library words it."""


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line_without_a_traceback(tmp_path, built, monkeypatch, wrapped):
    def build(job):
        error = OSError(errno.ENOSPC, "No space left on device", "weights")
        if not wrapped:
            raise error
        raise Full("Error while serializing: IoError") from error

    monkeypatch.setattr(sys.modules["morlaif.stages.work.first"], "build", build)
    done, dispatcher, record = dispatch(tmp_path, made_up("first", "first", 1, {}))
    assert not done and not dispatcher.mistaken
    assert record["units"][0]["error"].startswith("weights: the disk is full") and record["units"][0]["log"] is None


def test_failures_that_are_alike_are_reported_once(tmp_path, built):
    first = made_up("first", "first", 1, {})
    wrong = [made_up("second", f"second/{name}", 1, {"mistake": True, "n": name}, (first,)) for name in "abc"]
    _, dispatcher, _ = dispatch(tmp_path, first, *wrong)
    assert failures(dispatcher.run) == ["second/a and 2 more: data.path: no such file"]


def test_what_is_to_be_doubted_is_reported_once_when_built_and_when_cached(tmp_path, built, monkeypatch):
    unit = made_up("first", "first", 1, {})
    monkeypatch.setattr(type(unit.stage), "doubts", lambda self, unit, numbers: [f"few: {n}" for n in numbers])
    for first in ("loss", "value"):  # of its first step when it is built, of its summary when it was there
        lines = dispatch(tmp_path, unit)[1].display.console.file.getvalue().splitlines()
        assert [line for line in lines if "WARNING" in line] == [f"WARNING: first: few: {first}"]
