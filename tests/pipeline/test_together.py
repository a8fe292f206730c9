"""Units built in one go: each in its own folder, under its own lock; one that fails loses no other."""

from __future__ import annotations

import gc
import io
import sys
import threading
import types
import weakref

import pytest
from jobs import made_up
from rich.console import Console

from morlaif.errors import UserError
from morlaif.hardware import HardwareSettings
from morlaif.pipeline.dispatch import Dispatcher
from morlaif.pipeline.display import Display
from morlaif.pipeline.record import Run, read_run
from morlaif.presets import preset
from morlaif.tracking import LocalTracker
from morlaif.units.execute import build_here, build_together_here
from morlaif.units.store import Store
from morlaif.units.unit import Plan, Unit

HARDWARE = HardwareSettings(**preset("hardware", "cpu") | {"workers": 1, "threads": None})


@pytest.fixture
def calls(monkeypatch):
    """Stages `label` (one at a time) and `model` (together); what was built, call by call."""
    made: list[list[str]] = []

    def build(job):
        made.append([job.name])
        if job.reads.values.get("crash"):
            raise ZeroDivisionError("one over nothing")
        return {}

    def build_together(jobs):
        made.append([job.name for job in jobs])
        if any(job.reads.values.get("all") for job in jobs):
            raise ZeroDivisionError("nothing works")
        for job in jobs:
            job.progress(1, 1, loss=0.5)
            (job.out / "name").write_text(job.name)
        return {job.name: UserError("no data") if job.reads.values.get("bad") else {"n": 1} for job in jobs}

    for stage in ("label", "model"):
        module = types.ModuleType(f"morlaif.stages.work.{stage}")
        module.build, module.build_together = build, build_together
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def plan(*names: str, crash: str = "", **reads) -> list[Unit]:
    units = []
    for name in names:
        label = made_up("label", f"label/{name}", 1, {"crash": name == crash})
        own = {key: name in value for key, value in reads.items()}
        units += [label, made_up("model", f"model/{name}", 1, own, (label,), together="model")]
    return units


def dispatch(tmp_path, units) -> tuple[dict[str, str], dict]:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    run = Run(folder, "test", "morlaif", [], 0)
    run.plan(made := Plan(tuple(units)))
    tracker = LocalTracker(folder)
    store = Store(tmp_path / "store")
    Dispatcher(made, store, HARDWARE, run, tracker, Display(Console(file=io.StringIO()))).build()
    tracker.close()
    record = read_run(folder)
    return {unit["name"]: unit["state"] for unit in record["units"]}, record


def test_they_wait_for_one_another_and_go_in_one_call(tmp_path, calls):
    units = plan("a", "b", "c")
    states, _ = dispatch(tmp_path, units)
    assert set(states.values()) == {"built"}
    assert calls == [["label/a"], ["label/b"], ["label/c"], ["model/a", "model/b", "model/c"]]
    store = Store(tmp_path / "store")
    for unit in units[1::2]:
        assert (store.folder(unit) / "name").read_text() == unit.name
        assert (
            store.manifest(unit)["summary"] == {"n": 1} and "0.5" in (store.folder(unit) / "metrics.jsonl").read_text()
        )


def test_only_what_is_missing_is_built(tmp_path, calls):
    dispatch(tmp_path, plan("a", "b"))
    calls.clear()
    states, _ = dispatch(tmp_path, plan("a", "b", "c"))  # a thirteenth principle
    assert calls == [["label/c"], ["model/c"]] and states["model/a"] == "cached" and states["model/c"] == "built"


def test_one_that_fails_loses_no_other(tmp_path, calls):
    states, record = dispatch(tmp_path, plan("a", "b", "c", bad="b"))
    assert [states[f"model/{name}"] for name in "abc"] == ["built", "failed", "built"]
    (failed,) = [unit for unit in record["units"] if unit["state"] == "failed"]
    assert failed["error"] == "no data" and failed["log"] is None


def test_when_the_call_fails_all_of_its_units_fail(tmp_path, calls):
    states, record = dispatch(tmp_path, plan("a", "b", all="b"))
    assert [states[f"model/{name}"] for name in "ab"] == ["failed", "failed"]
    assert {unit["error"] for unit in record["units"] if unit["state"] == "failed"} == {
        "ZeroDivisionError: nothing works"
    }


def test_one_whose_need_failed_is_not_waited_for(tmp_path, calls):
    states, _ = dispatch(tmp_path, plan("a", "b", "c", crash="b"))
    assert calls[-1] == ["model/a", "model/c"] and states["model/b"] == "not_run" and states["model/c"] == "built"


@pytest.mark.timeout(60)
def test_two_that_want_the_same_in_another_order_do_not_wait_for_ever(tmp_path):
    """Locks are taken in one order: each is built once, by one of them."""
    units = [made_up("model", f"model/{name}", 1, {}) for name in "abcd"]
    built: list[str] = []

    def make(missing, places):
        built.extend(unit.name for unit in missing)
        return {unit.name: {} for unit in missing}

    def build(own):
        Store(tmp_path).build_together(own, make)

    for _ in range(20):
        threads = [threading.Thread(target=build, args=(own,)) for own in (units, units[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(built) == ["model/a", "model/b", "model/c", "model/d"]


@pytest.mark.slow
def test_models_that_a_unit_leaves_are_gone_before_the_next(monkeypatch):
    left = []

    class Network:
        pass

    def build(job):
        network = Network()
        network.itself = network
        left.append(weakref.ref(network))
        return {}

    module = types.ModuleType("morlaif.stages.work.model")
    module.build, module.build_together = build, lambda jobs: {"a": build(jobs[0])}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    unit, job = made_up("model", "model/a", 1, {}), types.SimpleNamespace(hardware=HARDWARE)
    gc.disable()
    try:
        for loads_model in (False, True):
            monkeypatch.setattr(type(unit.stage), "loads_model", loads_model)
            for run in (lambda: build_here(unit, job), lambda: build_together_here([unit], [job])):
                run()
                assert (left[-1]() is None) == loads_model
    finally:
        gc.enable()
