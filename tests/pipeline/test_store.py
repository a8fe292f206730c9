from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from morlaif.pipeline.store import Store
from morlaif.pipeline.unit import Unit

UNIT = Unit("pm", "pm/a", 1, {"seed": 0})


def make(out: Path, keep: Path) -> dict:
    (out / "file.txt").write_text("done")
    return {"accuracy": 0.9}


def test_builds_once_and_then_finds_it(tmp_path):
    store = Store(tmp_path)
    assert store.build(UNIT, make) == "built"
    assert store.build(UNIT, lambda out, keep: pytest.fail("built again")) == "cached"
    assert (store.folder(UNIT) / "file.txt").read_text() == "done"
    manifest = store.manifest(UNIT)
    assert manifest["summary"] == {"accuracy": 0.9}
    assert manifest["files_written"] == {"file.txt": 4}
    assert manifest["digest"] == UNIT.digest


def test_a_failed_build_leaves_nothing_finished_but_keeps_its_checkpoints(tmp_path):
    store = Store(tmp_path)

    def fail(out: Path, keep: Path) -> dict:
        (out / "half.txt").write_text("half")
        (keep / "checkpoint").write_text("step 3")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.build(UNIT, fail)
    assert not store.has(UNIT)

    def resume(out: Path, keep: Path) -> dict:
        assert list(out.iterdir()) == []
        return {"from": (keep / "checkpoint").read_text()}

    assert store.build(UNIT, resume) == "built"
    assert store.manifest(UNIT)["summary"] == {"from": "step 3"}
    assert not list((tmp_path / "pm").glob(f".{UNIT.digest}/*"))


def build_slowly(root: Path, counter: Path, ready) -> None:
    def slow(out: Path, keep: Path) -> dict:
        with counter.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        ready.set()
        time.sleep(0.5)
        return make(out, keep)

    Store(root).build(UNIT, slow)


def test_two_processes_build_a_unit_once(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    processes = [context.Process(target=build_slowly, args=(tmp_path, tmp_path / "count", ready)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len((tmp_path / "count").read_text().split()) == 1


def test_after_a_kill_the_next_builds_it(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=build_slowly, args=(tmp_path, tmp_path / "count", ready))
    process.start()
    assert ready.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not Store(tmp_path).has(UNIT)
    assert Store(tmp_path).build(UNIT, make) == "built"
