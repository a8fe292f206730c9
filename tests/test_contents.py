"""Hashes of files: what changes them, what is remembered, and what becomes of a damaged memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif import contents
from morlaif.contents import MEMORY, Hashes
from morlaif.errors import UserError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sizes at which a few bytes are a large file, and no memory but the file."""
    monkeypatch.setattr(contents, "REMEMBERED", 16)
    monkeypatch.setattr(contents, "CHUNK", 64)
    monkeypatch.setattr(contents, "_read", {})


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """The files that are really read."""
    seen: list[Path] = []
    plain = contents._hash_part
    monkeypatch.setattr(contents, "_hash_part", lambda file, start: seen.append(file) or plain(file, start))
    return seen


def written(path: Path, data: bytes, age: float = 10.0) -> Path:
    """A file whose times lie in the past; only its ctime cannot be set."""
    path.write_bytes(data)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


@pytest.fixture
def settled(monkeypatch):
    """As if every file had been written long before it was read."""
    monkeypatch.setattr(contents, "_settled", lambda state, read_at: True)


@given(st.binary(max_size=300), st.integers(0, 299))
def test_one_byte_changes_the_hash_and_a_small_file_has_that_of_its_bytes(tmp_path_factory, data, place):
    folder = tmp_path_factory.mktemp("files")
    one, same = written(folder / "a", data), written(folder / "b", data)
    first, second = Hashes(None).of([one, same])
    assert first == second
    if len(data) <= 64:
        assert first == hashlib.sha256(data).hexdigest()
    if data:
        flipped = bytearray(data)
        flipped[place % len(data)] ^= 1
        assert Hashes(None).of([written(folder / "b", flipped)]) != [first]
    assert Hashes(None).of([written(folder / "b", data + b"\0")]) != [first]


def test_a_large_file_is_read_once(tmp_path, settled, reads):
    file, store = written(tmp_path / "weights", bytes(200)), tmp_path / "store"
    first = Hashes(store).of([file])
    assert len(reads) == 4
    contents._read.clear()  # another process
    assert Hashes(store).of([file]) == first and len(reads) == 4
    os.utime(file)
    assert Hashes(store).of([file]) == first and len(reads) == 8, "touched: read again, and the same"


def test_a_byte_that_flips_behind_the_same_size_and_time_is_seen(tmp_path, settled):
    """In place, and by a file put into its place: ctime tells the one, the inode the other."""
    file, store = written(tmp_path / "weights", bytes(200)), tmp_path / "store"
    (first,) = Hashes(store).of([file])
    with file.open("r+b") as stream:
        stream.seek(150)
        stream.write(b"\1")
    os.utime(file, (1e9 - 10, 1e9 - 10))
    (second,) = Hashes(store).of([file])
    assert second != first
    os.replace(written(tmp_path / "other", bytes(200)), file)
    assert Hashes(store).of([file]) == [first]


def test_a_file_that_is_younger_than_the_clock_ticks_is_not_remembered(tmp_path, reads):
    file = written(tmp_path / "weights", bytes(200))
    state = contents._state(file)
    assert not contents._settled(state, state[2] / 1e9) and contents._settled(state, state[2] / 1e9 + 3)
    whole = (200, 10**18, 10**18, 1)  # a file system without parts of seconds
    assert not contents._settled(whole, 1e9 + 1) and contents._settled(whole, 1e9 + 3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw.replace(b"0", b"1"),
        lambda raw: b"\xff\xfe" + raw + b"\n[[[[\n{}\n[1, 2]\nnull\n",
        lambda raw: raw[len(raw) // 2 :] + raw[: len(raw) // 2],
        lambda raw: b"[" * 100_000,
    ],
)
def test_a_damaged_memory_is_made_anew(tmp_path, settled, reads, spoil):
    file, store = written(tmp_path / "weights", bytes(200)), tmp_path / "store"
    first = Hashes(store).of([file])
    (store / MEMORY).write_bytes(spoil((store / MEMORY).read_bytes()))
    for _ in range(2):
        contents._read.clear()
        assert Hashes(store).of([file]) == first
    assert len(reads) <= 8, "what was read again is remembered"


def test_a_memory_that_lies_is_not_believed(tmp_path, settled):
    """Each line has a hash over itself: one that a bit has flipped in is no line."""
    file, store = written(tmp_path / "weights", bytes(200)), tmp_path / "store"
    first = Hashes(store).of([file])
    raw = (store / MEMORY).read_bytes()
    at = raw.index(first[0].encode())
    (store / MEMORY).write_bytes(raw[:at] + (b"0" if raw[at : at + 1] != b"0" else b"1") + raw[at + 1 :])
    contents._read.clear()
    assert Hashes(store).of([file]) == first


@pytest.mark.parametrize("kind", ["no folder", "a file in its place", "memory is a folder"])
def test_a_store_that_cannot_be_written_is_done_without(tmp_path, settled, kind, reads):
    file, store = written(tmp_path / "weights", bytes(200)), tmp_path / "store"
    if kind == "a file in its place":
        store.write_text("x")
    elif kind == "memory is a folder":
        (store / MEMORY).mkdir(parents=True)
    else:
        store = Path("/proc/nowhere")
    first = Hashes(store).of([file])
    assert Hashes(store).of([file]) == first and len(reads) == 4, "this process knows it still"


def test_several_processes_write_one_memory(tmp_path, settled):
    files = [written(tmp_path / f"{i}", bytes([i]) * 200) for i in range(40)]
    wanted = Hashes(None).of(files)
    contents._read.clear()
    threads = [threading.Thread(target=Hashes(tmp_path / "store").of, args=([file],)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents._read.clear()
    known = dict(contents._lines(tmp_path / "store" / MEMORY))
    assert [known[str(file)][1] for file in files] == wanted


def test_small_files_leave_nothing_in_the_store(tmp_path, settled):
    Hashes(tmp_path / "store").of([written(tmp_path / "small", b"some")])
    assert not (tmp_path / "store").exists()


def test_a_file_that_grows_meanwhile_is_reported(tmp_path, monkeypatch):
    file = written(tmp_path / "weights", bytes(200))
    plain = contents._hash_part

    def grows(path: Path, start: int) -> bytes:
        with path.open("ab") as stream:
            stream.write(b"x")
        return plain(path, start)

    monkeypatch.setattr(contents, "_hash_part", grows)
    with pytest.raises(UserError, match="weights: changes while it is read; start again when it is whole"):
        Hashes(None).of([file])


def test_a_long_read_is_announced_once(tmp_path, monkeypatch, settled):
    monkeypatch.setattr(contents, "REPORTED", 100)
    told: list[str] = []
    file = written(tmp_path / "weights", bytes(200))
    for _ in range(2):
        Hashes(tmp_path / "store", told.append).of([file])
    assert len(told) == 1 and str(tmp_path) in told[0] and "once" in told[0]


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/gone"):
        Hashes(None).of([tmp_path / "gone"])


@pytest.mark.slow
def test_hashing_imports_nothing_heavy():
    code = "import sys, morlaif.models.fingerprint; print({'torch', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
