from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from morlaif.errors import UserError
from morlaif.feedback.ledger import OK, Answer, Ledger, key_of

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


@pytest.mark.parametrize("moment", [0.0, 0.05])
def test_nothing_that_was_said_to_be_written_is_lost_in_a_kill(tmp_path, moment):
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


def test_several_processes_write_at_once(tmp_path):
    processes = [writer(tmp_path / "l", 150 * n, 150 * n + 150) for n in range(3)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Ledger(tmp_path / "l") as ledger:
        assert len(ledger) == 450
        assert ledger.spent() == 225.0


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


def test_a_file_that_is_no_ledger(tmp_path):
    (tmp_path / "l").write_bytes(b"not a database, but long enough to look like a file" * 50)
    with pytest.raises(UserError, match="not a usable ledger"):
        Ledger(tmp_path / "l")


def test_a_ledger_of_another_version(tmp_path):
    Ledger(tmp_path / "l").close()
    sqlite3.connect(tmp_path / "l").execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"):
        Ledger(tmp_path / "l")
