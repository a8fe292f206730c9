from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from morlaif.errors import Damaged, MachineError, UserError
from morlaif.feedback.ledger import OK, Answer, Ledger, key_of
from morlaif.feedback.sqlite import connect, explain, write_ahead

ASKED = [{"role": "user", "content": "A or B?"}]
WRITER = """
import sys
from morlaif.feedback.ledger import Answer, Ledger, OK
ledger = Ledger(sys.argv[1])
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    ledger.put(i.to_bytes(16, "big"), "p", "m", Answer(i / 7, OK, 1, 1, 0.5), f"raw {i}")
    print(i, flush=True)
"""


def writer(path, begin: int, end: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(begin), str(end)], stdout=subprocess.PIPE, text=True
    )


def test_an_answer_is_found_again_by_what_was_asked(tmp_path):
    key = key_of("p", "m", ASKED, {"temperature": 0.0})
    with Ledger(tmp_path / "new" / "ledger.sqlite") as ledger:
        assert ledger.get(key) is None
        ledger.put(key, "p", "m", Answer(1.5, OK, 100, 1, 0.25), '{"x": "ü"}')
    with Ledger(tmp_path / "new" / "ledger.sqlite") as ledger:
        assert ledger.get(key) == Answer(1.5, OK, 100, 1, 0.25)
        assert ledger.raw(key) == '{"x": "ü"}'
        assert ledger.raw(b"\0" * 16) is None
        assert len(ledger) == 1 and ledger.spent() == 0.25


def test_the_key_is_what_was_asked():
    base = key_of("p", "m", ASKED, {"temperature": 0.0, "max_tokens": 1})
    assert base == key_of("p", "m", [dict(ASKED[0])], {"max_tokens": 1, "temperature": 0.0})
    others = {
        key_of("q", "m", ASKED, {"temperature": 0.0, "max_tokens": 1}),
        key_of("p", "n", ASKED, {"temperature": 0.0, "max_tokens": 1}),
        key_of("p", "m", [{"role": "user", "content": "B or A?"}], {"temperature": 0.0, "max_tokens": 1}),
        key_of("p", "m", ASKED, {"temperature": 0.5, "max_tokens": 1}),
        key_of("p", "m", ASKED, {"temperature": 0.0, "max_tokens": 1}, sample=1),
    }
    assert len(others | {base}) == 6


def test_an_unusable_answer_gives_way_and_its_cost_stays(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        ledger.put(b"k" * 16, "p", "m", Answer(None, "refusal", 10, 1, 0.5), "no")
        ledger.put(b"k" * 16, "p", "m", Answer(2.0, OK, 10, 1, 0.5), "yes")
        assert ledger.get(b"k" * 16) == Answer(2.0, OK, 20, 2, 1.0)
        assert ledger.raw(b"k" * 16) == "yes" and len(ledger) == 1


def test_facts(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.recall("x") is None
        ledger.remember("x", "yes")
        ledger.remember("x", "no")
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.recall("x") == "no"


def test_arrow_batches(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        assert list(ledger.batches()) == []
        for i in range(5):
            answer = Answer(None if i == 3 else float(i), "refusal" if i == 3 else OK, 1, 2, 0.5)
            ledger.put(i.to_bytes(16, "big"), "p", f"m{i % 2}", answer, "raw")
        batches = list(ledger.batches(size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [row["value"] for row in rows] == [0.0, 1.0, 2.0, None, 4.0]
    assert [row["model"] for row in rows] == ["m0", "m1", "m0", "m1", "m0"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.05])
def test_nothing_that_was_reported_as_written_is_lost_in_a_kill(tmp_path, moment):
    process = writer(tmp_path / "l", 0, 10**9)
    process.stdout.readline()  # at work
    time.sleep(moment)
    os.kill(process.pid, signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().splitlines() if line.strip()]
    process.wait()
    with Ledger(tmp_path / "l") as ledger:
        last = max(said, default=0)
        assert len(ledger) >= last + 1
        for i in {0, last // 2, last}:
            assert ledger.get(i.to_bytes(16, "big")).value == i / 7
            assert ledger.raw(i.to_bytes(16, "big")) == f"raw {i}"
        assert sqlite3.connect(tmp_path / "l").execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_several_processes_write_at_once(tmp_path):
    processes = [writer(tmp_path / "l", 150 * n, 150 * n + 150) for n in range(3)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Ledger(tmp_path / "l") as ledger:
        assert len(ledger) == 450
        assert ledger.spent() == 225.0


def test_a_new_file_that_another_process_switches_is_waited_for(tmp_path):
    holder = sqlite3.connect(tmp_path / "l", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    opened = connect(tmp_path / "l")
    opened.execute("PRAGMA busy_timeout = 0")  # SQLite gives up at once, as it does where two switch together
    with pytest.raises(MachineError, match="locked"):
        opened.execute("PRAGMA journal_mode = WAL")
    release = threading.Timer(0.1, lambda: holder.execute("COMMIT"))
    release.start()
    write_ahead(opened)
    release.join()
    assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_torn_log_is_rolled_back(tmp_path):
    ledger = Ledger(tmp_path / "l")
    for i in range(50):
        ledger.put(i.to_bytes(16, "big"), "p", "m", Answer(float(i), OK), "raw")
    wal = tmp_path / "l-wal"
    copy = tmp_path / "torn"
    copy.write_bytes((tmp_path / "l").read_bytes())
    (tmp_path / "torn-wal").write_bytes(wal.read_bytes()[:-1000])  # the last write only half on disk
    ledger.close()
    with Ledger(copy) as torn:
        assert 45 <= len(torn) < 50
        assert torn.get((44).to_bytes(16, "big")).value == 44.0
        torn.put(b"n" * 16, "p", "m", Answer(1.0, OK), "raw")


def test_a_ledger_of_another_version(tmp_path):
    Ledger(tmp_path / "l").close()
    sqlite3.connect(tmp_path / "l").execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"):
        Ledger(tmp_path / "l")


def refused(path, kind=UserError) -> str:
    with pytest.raises(kind) as error, Ledger(path) as ledger:
        ledger.put(b"n" * 16, "p", "m", Answer(1.0, OK), "raw")
        ledger.get(b"k" * 16)
        len(ledger)
    line = str(error.value)
    assert "\n" not in line and str(path) in line and not re.search(r"move it away|delete|remove it", line, re.I)
    return line


def filled(path, rows: int = 300):
    with Ledger(path) as ledger, ledger.transaction():
        for i in range(rows):
            ledger.put(i.to_bytes(16, "big"), "p", "m", Answer(float(i), OK), f"raw {i}" * 20)
    return path


@pytest.mark.slow
def test_a_locked_ledger_names_who_may_hold_it(tmp_path, monkeypatch):
    monkeypatch.setattr("morlaif.feedback.sqlite.PATIENCE", 0.2)
    path = filled(tmp_path / "l")
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); "
        "print(1, flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=-1, stdout=-1)
    holder.stdout.readline()
    line = refused(path, MachineError)
    assert "locked by another process" in line and f"process {holder.pid} (" in line and "is kept" in line
    holder.communicate(b"\n")
    assert len(Ledger(path)) == 300


def test_a_full_disk(tmp_path):
    path = filled(tmp_path / "l")
    with Ledger(path) as ledger:
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(MachineError, match=r"the disk is full \([\d,]+ MB free\).*is kept.*Free some space"):
            ledger.put(b"n" * 16, "p", "m", Answer(1.0, OK), os.urandom(200_000).hex())
        ledger.put(b"o" * 16, "p", "m", Answer(1.0, OK), "a small one still fits")
        assert ledger.get(b"n" * 16) is None and len(ledger) == 301


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_ledger_without_the_right_to_write(tmp_path, what):
    path = filled(tmp_path / "store" / "l")
    place = path if what == "file" else path.parent
    mode = place.stat().st_mode
    place.chmod(0o444 if what == "file" else 0o555)
    try:
        line = refused(path)
    finally:
        place.chmod(mode)
    assert f"may not write to the ledger's {what}" in line and "is kept" in line


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("SQLITE_READONLY", UserError, "cannot be opened for writing"),
        ("SQLITE_READONLY_DBMOVED", MachineError, "moved or deleted while it was in use"),
        ("SQLITE_CANTOPEN", UserError, "cannot be opened for writing"),
        ("SQLITE_IOERR_WRITE", MachineError, "the disk or its file system failed"),
        ("SQLITE_IOERR_SHMMAP", MachineError, "does not lock files as SQLite needs it"),
        ("SQLITE_PROTOCOL", MachineError, "Use a store on a local disk"),
        ("SQLITE_CORRUPT_INDEX", Damaged, "left as it is"),
        ("SQLITE_NOMEM", MachineError, "cannot be used (words, SQLITE_NOMEM)"),
        (None, MachineError, "cannot be used (words)"),
    ],
)
def test_each_error_says_what_it_is(tmp_path, name, kind, said):
    error = sqlite3.OperationalError("words")
    if name:
        error.sqlite_errorname = name
    found = explain(error, filled(tmp_path / "l", 1))
    assert type(found) is kind and said in str(found) and "\n" not in str(found)


def test_a_damaged_ledger_is_left_and_can_be_recovered(tmp_path):
    path = filled(tmp_path / "ledger.sqlite")
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:4096] + b"\xff" * (half - 4096) + whole[half:])
    damaged = path.read_bytes()
    line = refused(path, Damaged)
    assert f"sqlite3 '{path}' .recover | sqlite3 '{tmp_path}/ledger.recovered.sqlite'" in line
    assert path.read_bytes() == damaged
    path.write_bytes(whole[: len(whole) // 3])  # half copied
    assert "is damaged" in refused(path, Damaged)


def test_a_raw_reply_that_is_damaged(tmp_path):
    path = filled(tmp_path / "l", 1)
    with Ledger(path) as ledger:
        ledger._db.execute("UPDATE reply SET raw = x'00ff'")
        with pytest.raises(Damaged, match="a raw reply cannot be unpacked"):
            ledger.raw((0).to_bytes(16, "big"))


def test_what_is_no_ledger(tmp_path):
    (tmp_path / "folder").mkdir()
    assert "a folder is where the ledger's file would be" in refused(tmp_path / "folder")
    (tmp_path / "text").write_text("not a database, but long enough to look like a file" * 50)
    assert "no SQLite database" in refused(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE songs (name)")
    other.commit()
    other.close()
    before = (tmp_path / "other").read_bytes()
    assert "a database of another program (its tables: songs)" in refused(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        Ledger(tmp_path / "file" / "l")
    (tmp_path / "empty").write_bytes(b"")  # as a new one
    assert len(Ledger(tmp_path / "empty")) == 0
