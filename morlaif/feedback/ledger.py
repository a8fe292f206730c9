"""The ledger: every paid answer, durable the moment it arrives, found again by what was asked.

One SQLite file in WAL mode, shared by all runs of a store and by several processes at once. Each answer is one
transaction: a process killed at any moment loses none that was written, and a torn write is rolled back on opening.
(With synchronous=NORMAL: after a loss of power the file is consistent, but may lack the last answers.) The small
columns that labelling reads stand in one table, the raw replies, compressed and kept for audit, in another.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morlaif.errors import UserError

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
OK = "ok"  # the outcome of an answer that can be used; any other says what is wrong with it

_SCHEMA = (
    "CREATE TABLE judge (id INTEGER PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, UNIQUE(provider, model))",
    f"""CREATE TABLE answer (
        key BLOB PRIMARY KEY,  -- 16 bytes of the SHA-256 of what was asked
        value REAL,            -- what was read from the reply; null without a usable one
        outcome TEXT NOT NULL, -- '{OK}', or why there is no value
        judge INTEGER NOT NULL REFERENCES judge,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        usd REAL NOT NULL,
        at REAL NOT NULL       -- seconds since 1970
    ) WITHOUT ROWID""",
    "CREATE TABLE reply (key BLOB PRIMARY KEY, raw BLOB NOT NULL) WITHOUT ROWID",  # zlib of the reply's JSON
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",  # what was learnt about a server
    "CREATE TABLE spent (usd REAL NOT NULL)",  # one row: the sum over all answers
    "INSERT INTO spent VALUES (0)",
    f"PRAGMA user_version = {VERSION}",
)
_INSERT = """
INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    value = excluded.value, outcome = excluded.outcome, at = excluded.at, usd = usd + excluded.usd,
    input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens
"""
_SELECT = "SELECT value, outcome, input_tokens, output_tokens, usd FROM answer WHERE key = ?"


def key_of(
    provider: str, model: str, messages: Sequence[Mapping[str, str]], decoding: Mapping[str, Any], sample: int = 0
) -> bytes:
    """The identity of a question, 16 bytes: who is asked, what, how it is decoded, and which of several draws it is."""
    asked = json.dumps([provider, model, list(messages), dict(decoding), sample], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(asked.encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply, as the ledger keeps it."""

    value: float | None  # None: no usable answer
    outcome: str  # OK, or why there is no value
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0


class Ledger:
    """Open (and where needed create) the ledger at `path`. One object belongs to one thread at a time.

    Raises:
        UserError: the file is no ledger, or of another version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self._judges: dict[tuple[str, str], int] = {}
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise UserError(f"{self.path}: not a usable ledger ({error}). Move it away to begin a new one.") from None

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if self._version() == 0:
            with self._transaction():  # a second process waits here, and then finds the work done
                if self._version() == 0:
                    for statement in _SCHEMA:
                        self._db.execute(statement)
        if (version := self._version()) != VERSION:
            self._db.close()
            raise UserError(f"{self.path}: a ledger of version {version}, where this program writes version {VERSION}")

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: bytes) -> Answer | None:
        """What is known about the question `key`, usable or not; None if it was never answered."""
        row = self._db.execute(_SELECT, (key,)).fetchone()
        return Answer(*row) if row else None

    def put(self, key: bytes, provider: str, model: str, answer: Answer, raw: str) -> None:
        """Record an answer and its raw reply. An earlier answer to the same question gives way; the costs add up."""
        judge = self._judge(provider, model)
        cost = (answer.input_tokens, answer.output_tokens, answer.usd)
        with self._transaction():
            self._db.execute(_INSERT, (key, answer.value, answer.outcome, judge, *cost, time.time()))
            self._db.execute("UPDATE spent SET usd = usd + ?", (answer.usd,))
            packed = zlib.compress(raw.encode("utf-8", "replace"))
            self._db.execute("INSERT OR REPLACE INTO reply VALUES (?, ?)", (key, packed))

    def raw(self, key: bytes) -> str | None:
        """The reply as it came, for audit."""
        row = self._db.execute("SELECT raw FROM reply WHERE key = ?", (key,)).fetchone()
        return zlib.decompress(row[0]).decode() if row else None

    def remember(self, name: str, value: str) -> None:
        """Keep a fact about a server, such as whether it gives log-probabilities."""
        self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def recall(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def spent(self) -> float:
        """US dollars paid for all that is recorded here."""
        return self._db.execute("SELECT usd FROM spent").fetchone()[0]

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM answer").fetchone()[0]

    def batches(self, size: int = 50_000) -> Iterator[pyarrow.RecordBatch]:
        """All answers as Arrow record batches, in the order of their keys; memory is bounded by one batch."""
        import pyarrow as pa

        schema = pa.schema({
            "key": pa.binary(16), "value": pa.float64(), "outcome": pa.string(),
            "provider": pa.string(), "model": pa.string(),
            "input_tokens": pa.int64(), "output_tokens": pa.int64(), "usd": pa.float64(), "at": pa.float64(),
        })  # fmt: skip
        cursor = self._db.execute(
            "SELECT key, value, outcome, provider, model, input_tokens, output_tokens, usd, at "
            "FROM answer JOIN judge ON judge.id = answer.judge ORDER BY key"
        )
        while rows := cursor.fetchmany(size):
            columns = zip(zip(*rows, strict=True), schema, strict=True)
            yield pa.record_batch([pa.array(column, type=field.type) for column, field in columns], schema=schema)

    def _judge(self, provider: str, model: str) -> int:
        if (provider, model) not in self._judges:
            self._db.execute("INSERT OR IGNORE INTO judge (provider, model) VALUES (?, ?)", (provider, model))
            found = self._db.execute("SELECT id FROM judge WHERE provider = ? AND model = ?", (provider, model))
            self._judges[provider, model] = found.fetchone()[0]
        return self._judges[provider, model]
