from __future__ import annotations

import errno
import json
import multiprocessing
import os
import platform
import shutil
import signal
import time
from pathlib import Path

import pytest
from jobs import made_up

from morlaif.errors import MachineError, UserError
from morlaif.units.store import Store
from morlaif.units.unit import Unit

UNIT = made_up("pm", "pm/a", 1, {})


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


# --- damage ---------------------------------------------------------------------------------------------------------


def make_files(out: Path, keep: Path) -> dict:
    (out / "model").mkdir()
    (out / "model" / "weights").write_bytes(bytes(range(256)) * 5_000)
    (out / "results.json").write_text('{"a": 1}')
    return {"accuracy": 0.9}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another(folder: Path) -> None:
    other = Store(folder.parents[1])
    other.build(OTHER, make_files)
    shutil.copy(other.folder(OTHER) / "manifest.json", folder / "manifest.json")


def to_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def to_loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder)


OTHER = made_up("pm", "pm/b", 1, {})
DAMAGES = [  # what is done to the finished folder, what is said of it
    (lambda folder: truncate(folder / "manifest.json"), "manifest.json: breaks off in the middle"),
    (lambda folder: flip(folder / "manifest.json"), "manifest.json"),
    (lambda folder: (folder / "manifest.json").write_text("[]"), "holds a list where an object should be"),
    (lambda folder: (folder / "manifest.json").write_text("not JSON"), "manifest.json, column 1: not JSON"),
    (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\0"), "manifest.json: is UTF-16"),
    (lambda folder: (folder / "manifest.json").write_text('{"a":' * 5_000), "nested too deeply"),
    (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
    (lambda folder: to_folder(folder / "manifest.json"), "it has no manifest.json"),
    (of_another, "its manifest.json is that of pm/"),
    (lambda folder: (folder / "results.json").unlink(), "results.json is missing"),
    (lambda folder: to_folder(folder / "results.json"), "results.json has"),
    (lambda folder: truncate(folder / "results.json"), "results.json has 3 bytes of 8"),
    (lambda folder: flip(folder / "results.json"), "the content of results.json is not what was written"),
    (lambda folder: flip(folder / "model" / "weights"), "the content of model/weights is not what was written"),
    (lambda folder: shutil.rmtree(folder / "model"), "model/weights is missing"),
    (to_file, "it is no folder"),
    (to_loop, "it is no folder"),
]


@pytest.mark.parametrize(("spoil", "told"), DAMAGES, ids=[told for _, told in DAMAGES])
def test_what_is_damaged_is_set_aside_and_built_again(tmp_path, spoil, told):
    Store(tmp_path).build(UNIT, make_files)
    folder = Store(tmp_path).folder(UNIT)
    spoil(folder)
    store, said = Store(tmp_path), []
    assert store.state(UNIT) == "damaged" and not store.has(UNIT)
    assert store.build(UNIT, make_files, lambda unit, *line: said.append((unit, *line))) == "built"
    aside = folder.with_name(folder.name + ".damaged")
    assert os.path.lexists(aside)  # never deleted
    [(unit, kind, line)] = said
    assert unit is UNIT and kind == "damaged" and told in line and aside.name in line and "\n" not in line
    assert Store(tmp_path).has(UNIT) and (folder / "results.json").read_text() == '{"a": 1}'


def test_a_second_damage_does_not_overwrite_the_first(tmp_path):
    for _ in range(3):
        Store(tmp_path).build(UNIT, make_files)
        truncate(Store(tmp_path).folder(UNIT) / "results.json")
    names = sorted(path.name.removeprefix(UNIT.digest) for path in (tmp_path / "pm").glob(f"{UNIT.digest}*"))
    assert names == ["", ".damaged", ".damaged-2"]


def test_a_copied_or_touched_artifact_is_sound(tmp_path):
    Store(tmp_path / "store").build(UNIT, make_files)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=shutil.copyfile)
    store = Store(tmp_path / "copy")
    assert store.has(UNIT)
    times = store.manifest(UNIT)["modified"]  # set back, so that it is read once
    assert all((store.folder(UNIT) / name).stat().st_mtime_ns == time for name, time in times.items())
    assert not list((tmp_path / "copy" / "pm").glob("*.damaged"))


def test_a_manifest_of_an_older_version_is_taken(tmp_path):
    store = Store(tmp_path)
    store.build(UNIT, make_files)
    manifest = {k: v for k, v in store.manifest(UNIT).items() if k not in ("sha256", "modified", "check")}
    (store.folder(UNIT) / "manifest.json").write_text(json.dumps(manifest))
    assert Store(tmp_path).has(UNIT)
    truncate(store.folder(UNIT) / "results.json")
    assert not Store(tmp_path).has(UNIT)


def test_content_under_an_unchanged_time_is_found_by_reading_all(tmp_path):
    store = Store(tmp_path)
    store.build(UNIT, make_files)
    path = store.folder(UNIT) / "model" / "weights"
    time_ = path.stat().st_mtime_ns
    flip(path)
    os.utime(path, ns=(time_, time_))
    assert Store(tmp_path).has(UNIT)  # what a look cannot see
    assert "model/weights" in store.read_again(UNIT)
    assert not store.has(UNIT) and store.read_again(UNIT) is None


def set_aside_and_build(root: Path, counter: Path) -> None:
    def slow(out: Path, keep: Path) -> dict:
        time.sleep(0.3)
        return make_files(out, keep)

    def tell(unit: Unit, kind: str, line: str) -> None:
        with counter.open("a") as stream:
            stream.write(kind + "\n")

    Store(root).build(UNIT, slow, tell)


@pytest.mark.slow
def test_only_one_process_sets_aside(tmp_path):
    Store(tmp_path).build(UNIT, make_files)
    truncate(Store(tmp_path).folder(UNIT) / "results.json")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=set_aside_and_build, args=(tmp_path, tmp_path / "told")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert (tmp_path / "told").read_text().split().count("damaged") == 1
    assert sorted(path.name for path in (tmp_path / "pm").glob("*.damaged*")) == [UNIT.digest + ".damaged"]
    assert Store(tmp_path).has(UNIT)


def test_a_waiting_process_says_for_whom(tmp_path):
    store, said = Store(tmp_path), []
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=build_slowly, args=(tmp_path, tmp_path / "count", ready))
    process.start()
    assert ready.wait(30)
    assert store.build(UNIT, make, lambda unit, *line: said.append(line)) == "cached"
    process.join(30)
    assert said == [("waiting", f"process {process.pid} on {platform.node()}")]


# --- places that cannot be used ------------------------------------------------------------------------------------


def in_the_way(path: Path) -> Path:
    path.write_text("a file")
    return path


def looped(path: Path) -> Path:
    path.symlink_to(path)
    return path


PLACES = [
    (in_the_way, "a file is in the way|a part of the path is a file"),
    (lambda path: in_the_way(path) / "below", "a part of the path is a file"),
    (looped, "symbolic links go in a circle"),
    (lambda path: path / ("x" * 300), "a name of more than 255 bytes"),
    (lambda path: path / "/".join(["y" * 200] * 30), "a path of more than 4,095"),
]


@pytest.mark.parametrize(("place", "told"), PLACES, ids=[told for _, told in PLACES])
def test_a_store_that_cannot_be_is_reported_in_a_line(tmp_path, place, told):
    root = place(tmp_path / "store")
    with pytest.raises(UserError, match=told) as caught:
        Store(root).build(UNIT, make)
    assert str(caught.value).startswith(f"paths.store={root}"[:200]) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, MachineError), (errno.EDQUOT, MachineError), (errno.EROFS, UserError)]
)
@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_full_or_read_only_store(tmp_path, monkeypatch, call, number, kind):
    def fails(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, call, fails)
    with pytest.raises(kind, match=f"paths.store={tmp_path}"):
        Store(tmp_path).build(UNIT, make)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="may not write there"):
        Store(tmp_path).build(UNIT, make)
    tmp_path.chmod(0o700)
