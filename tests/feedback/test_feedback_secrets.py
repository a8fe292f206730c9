"""A key from the environment reaches the server and no file: not the run's folder, not the store."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import zlib
from contextlib import closing
from pathlib import Path

import cli
import pytest
from chat_server import ChatServer
from feedback_cases import make_pairs

pytestmark = pytest.mark.slow

KEY = "sk-proj-9f2c41d7-not-a-real-key-6b8e"


@pytest.fixture
def labelling(tmp_path):
    """run(server) -> the finished command, which labels pairs under two principles through `feedback=openai`."""
    rows = [
        {"prompt": pair.messages[0]["content"], "chosen": pair.first, "rejected": pair.second}
        for pair in make_pairs(16)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        "~experiment", "data=jsonl", "data.path=pairs.jsonl", "data.eval_fraction=0.25", "respond=pairs",
        "feedback=openai", "feedback.api_key_env=MORLAIF_TEST_KEY", "feedback.retries=1", "feedback.backoff=0.01",
        "principles.count=2", "arms.select=[morlaif]", "stages=[feedback]",
    ]  # fmt: skip

    def run(server: ChatServer) -> subprocess.CompletedProcess[str]:
        arguments = [*given, f"feedback.base_url={server.base_url}", "hardware.workers=1"]
        return cli.morlaif(arguments, tmp_path, {"MORLAIF_TEST_KEY": KEY})

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def replies(ledger: sqlite3.Connection) -> bytes:
    """What stands compressed in the ledger."""
    return b" ".join(zlib.decompress(raw) for (raw,) in ledger.execute("SELECT raw FROM reply"))


def test_no_file_of_a_run_or_of_the_store_holds_the_key(labelling, tmp_path):
    refused = (401, {"code": "invalid_api_key", "message": f"Incorrect API key provided: {KEY}"})
    outputs = []
    with ChatServer(lambda n, body: refused) as server:  # a server that repeats the key in what it says
        outputs.append(labelling(server))
        assert server.authorization == {f"Bearer {KEY}"}
    with closing(sqlite3.connect(tmp_path / "store" / "ledger.sqlite")) as ledger:
        ledger.execute("SELECT count(*) FROM sqlite_master").fetchone()  # a reader keeps the write-ahead log alive
        with ChatServer() as server:
            outputs.append(labelling(server))
            assert server.received == 2 * 2 * 16 and server.authorization == {f"Bearer {KEY}"}
        found = files(tmp_path) | {"raw replies": replies(ledger)}
    assert [done.returncode for done in outputs] == [2, 0], outputs[1].stdout + outputs[1].stderr
    assert "the key was refused" in outputs[0].stdout + outputs[0].stderr
    assert found["store/ledger.sqlite-wal"] and b"finish_reason" in found["raw replies"]
    names = {Path(name).name for name in found}
    assert {"ledger.sqlite", "config.json", "run.json", "manifest.json", "quality.json"} <= names, sorted(names)
    said = {f"output {i}": (done.stdout + done.stderr).encode() for i, done in enumerate(outputs)}
    for secret in (KEY, KEY[::-1], KEY[8:28]):  # nor a good part of it
        assert [name for name, content in (found | said).items() if secret.encode() in content] == []
