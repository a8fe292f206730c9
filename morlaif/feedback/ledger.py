"""The ledger: every paid answer, durable the moment it arrives, found again by what was asked.

One SQLite file in WAL mode, shared by all runs of a store and by several processes at once. Each answer is one
transaction: a process killed at any moment loses none that was written, and a torn write is rolled back on opening.
(With synchronous=NORMAL: after a loss of power the file is consistent, but may lack the last answers.) The small
columns that labelling reads are in one table, the raw replies, compressed and kept for audit, in another.

What labelling reads back is the table of verdicts: both orders of a pair as one row, under a *scope* (who judges, under
which principle, in which words) and the pair's own identity. It follows from the answers, and can be looked up a
hundred times faster than the questions can be written out again and hashed. Only valid verdicts are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morlaif.errors import UserError
from morlaif.feedback.sqlite import connect, damaged, write_ahead

if TYPE_CHECKING:
    import pyarrow

VERSION = 2
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
)
_SCHEMA_2 = (  # added to a ledger of version 1, which loses nothing
    "CREATE TABLE scope (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, said TEXT NOT NULL)",
    """CREATE TABLE verdict (
        scope INTEGER NOT NULL REFERENCES scope,
        pair INTEGER NOT NULL,  -- the 64 bits of its id
        p_first REAL NOT NULL, bias REAL, d_forward REAL, d_backward REAL,
        input_tokens REAL NOT NULL, output_tokens REAL NOT NULL, usd REAL NOT NULL,
        PRIMARY KEY (scope, pair)
    ) WITHOUT ROWID""",
    """CREATE TABLE batch (
        name TEXT PRIMARY KEY,  -- ours, of its lines; given to the server as metadata
        id TEXT,                -- the server's; null while it is being sent
        provider TEXT NOT NULL, model TEXT NOT NULL,
        reader TEXT NOT NULL,   -- how its replies are read
        tokens REAL NOT NULL, open INTEGER NOT NULL, at REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE TABLE line (key BLOB PRIMARY KEY, batch TEXT NOT NULL REFERENCES batch) WITHOUT ROWID",  # of open batches
    "CREATE INDEX line_batch ON line (batch)",
    # questions on their way, and of whose: "host pid …"
    "CREATE TABLE claim (key BLOB PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE reservation (owner TEXT PRIMARY KEY, usd REAL NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
)
_INSERT = """
INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    value = excluded.value, outcome = excluded.outcome, at = excluded.at, usd = usd + excluded.usd,
    input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens
"""
_VERDICTS = """
SELECT p_first, bias, d_forward, d_backward, input_tokens, output_tokens, usd
FROM json_each(?) AS asked LEFT JOIN verdict ON scope = ? AND pair = asked.value
"""  # a left join walks its left side, here in the order of the list
_SELECT = "SELECT value, outcome, input_tokens, output_tokens, usd FROM answer WHERE key = ?"


def key_of(
    provider: str, model: str, messages: Sequence[Mapping[str, object]], decoding: Mapping[str, Any], sample: int = 0
) -> bytes:
    """The identity of a question, 16 bytes: who is asked, what, how it is decoded, and which of several draws it is."""
    asked = json.dumps([provider, model, list(messages), dict(decoding), sample], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(asked.encode()).digest()[:16]


def new_owner() -> str:
    """A name under which this process claims questions and sets money aside."""
    return f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"


def is_alive(owner: str, elsewhere: bool) -> bool:
    """Whether the process of that name lives; of another machine nobody can know, and `elsewhere` is the answer."""
    host, pid, *_ = owner.split(" ")
    if host != socket.gethostname():
        return elsewhere
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def pair_numbers(ids: Sequence[str]) -> list[int]:
    """The identities of pairs as signed 64-bit numbers, of which SQLite makes an index; other names are hashed."""
    try:
        return [int(name, 16) - 2**63 if len(name) == 16 else _hashed(name) for name in ids]
    except ValueError:  # some name is not made of hexadecimal digits
        return [pair_numbers([name])[0] for name in ids] if len(ids) > 1 else [_hashed(ids[0])]


def _hashed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


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
        UserError, MachineError: the file is no ledger, of a newer version, locked, damaged or cannot be written; so do
            all methods.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._db = connect(self.path)
        self._judges: dict[tuple[str, str], int] = {}
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        self._check_kind()
        write_ahead(self._db)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -32768")  # kibibytes, as it is below zero: pairs are looked up at random
        if self._version() < VERSION:
            with self.transaction():  # a second process waits here, and then finds the work done
                for version, schema in enumerate((_SCHEMA, _SCHEMA_2)):
                    for statement in schema if self._version() <= version else ():
                        self._db.execute(statement)

    def _check_kind(self) -> None:
        """Before anything is written: whether this is a ledger, and not of a newer version."""
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "answer" not in tables:
            raise UserError(
                f"{self.path}: a database of another program (its tables: {', '.join(sorted(tables)[:4])}), no ledger. "
                "It is left as it is. Name another store (paths.store)."
            )
        if (version := self._version()) > VERSION or version < 0:
            raise UserError(
                f"{self.path}: a ledger of version {version}, where this program writes version {VERSION}: a newer "
                "morlaif wrote it. It is left as it is. Use that version, or name another store (paths.store)."
            )

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside becomes durable together, or not at all; one inside another is part of it."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it by itself
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
        with self.transaction():
            self._db.execute(_INSERT, (key, answer.value, answer.outcome, judge, *cost, time.time()))
            self._db.execute("UPDATE spent SET usd = usd + ?", (answer.usd,))
            packed = zlib.compress(raw.encode("utf-8", "replace"))
            self._db.execute("INSERT OR REPLACE INTO reply VALUES (?, ?)", (key, packed))
            self._db.execute("DELETE FROM claim WHERE key = ?", (key,))

    def claim(self, key: bytes, owner: str, stale: float) -> bool:
        """Take it upon `owner` to ask a question, unless another living process has.

        Processes of this machine live as long as their number does; others for `stale` seconds.
        """
        with self.transaction():
            held = self._db.execute("SELECT owner, at FROM claim WHERE key = ?", (key,)).fetchone()
            if held and held[0] != owner and is_alive(held[0], time.time() - held[1] < stale):
                return False
            self._db.execute("INSERT OR REPLACE INTO claim VALUES (?, ?, ?)", (key, owner, time.time()))
            return True

    def unclaim(self, key: bytes) -> None:
        self._db.execute("DELETE FROM claim WHERE key = ?", (key,))

    def raw(self, key: bytes) -> str | None:
        """The reply as it came, for audit."""
        row = self._db.execute("SELECT raw FROM reply WHERE key = ?", (key,)).fetchone()
        try:
            return zlib.decompress(row[0]).decode() if row else None
        except (zlib.error, UnicodeDecodeError, TypeError) as error:
            raise damaged(self.path, f"a raw reply cannot be unpacked: {error}") from None

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

    def has_answers(self, provider: str, model: str) -> bool:
        """Whether anything was ever answered under these names."""
        query = "SELECT 1 FROM judge WHERE provider = ? AND model = ?"
        return self._db.execute(query, (provider, model)).fetchone() is not None

    def lose(self, usd: float) -> None:
        """Count what was paid for an answer that cannot be used by anybody."""
        self._db.execute("UPDATE spent SET usd = usd + ?", (usd,))

    def reserve(self, owner: str, usd: float, limit: float, stale: float) -> bool:
        """Set `usd` more aside for `owner`, if with all that is spent and set aside no more than `limit` is gone.

        What an owner set aside more than `stale` seconds ago and never touched since has been forgotten in a crash.
        Owners whose names begin with "batch " keep what they set aside until they are released.
        """
        with self.transaction():
            self._db.execute(
                "DELETE FROM reservation WHERE at < ? AND owner NOT LIKE 'batch %'", (time.time() - stale,)
            )
            if self.spent() + self.reserved() + usd > limit:
                return False
            self._db.execute(
                "INSERT INTO reservation VALUES (?, ?, ?) "
                "ON CONFLICT (owner) DO UPDATE SET usd = usd + excluded.usd, at = excluded.at",
                (owner, usd, time.time()),
            )
            return True

    def release(self, owner: str, usd: float | None = None) -> None:
        """Give back `usd` of what `owner` has set aside; None: all of it."""
        with self.transaction():
            if usd is None:
                self._db.execute("DELETE FROM reservation WHERE owner = ?", (owner,))
            else:
                query = "UPDATE reservation SET usd = max(0, usd - ?), at = ? WHERE owner = ?"
                self._db.execute(query, (usd, time.time(), owner))

    def reserved(self) -> float:
        """US dollars set aside for requests on their way, of all processes."""
        return self._db.execute("SELECT coalesce(sum(usd), 0) FROM reservation").fetchone()[0]

    def owners(self) -> list[str]:
        """Who has money set aside, batches apart."""
        query = "SELECT owner FROM reservation WHERE owner NOT LIKE 'batch %'"
        return [row[0] for row in self._db.execute(query)]

    def open_batches(self, provider: str, model: str) -> list[tuple[str, str | None, str, float]]:
        """Name, id, reader and tokens of the batches that are not collected, oldest first."""
        query = "SELECT name, id, reader, tokens FROM batch WHERE open AND provider = ? AND model = ? ORDER BY at"
        return self._db.execute(query, (provider, model)).fetchall()

    def begin_batch(
        self, name: str, keys: Sequence[bytes], provider: str, model: str, reader: str, tokens: float
    ) -> None:
        """Write down that these questions are about to be sent together."""
        with self.transaction():
            row = (name, None, provider, model, reader, tokens, 1, time.time())
            self._db.execute("INSERT OR REPLACE INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._db.executemany("INSERT OR REPLACE INTO line VALUES (?, ?)", ((key, name) for key in keys))

    def sent_batch(self, name: str, id: str) -> None:
        self._db.execute("UPDATE batch SET id = ? WHERE name = ?", (id, name))

    def end_batch(self, name: str) -> None:
        """Its answers are here, or will never be: questions without one may be sent again."""
        with self.transaction():
            self._db.execute("UPDATE batch SET open = 0 WHERE name = ?", (name,))
            self._db.execute("DELETE FROM line WHERE batch = ?", (name,))
            self.release(f"batch {name}")

    def on_its_way(self, key: bytes) -> bool:
        """Whether the question is a line of an open batch."""
        return self._db.execute("SELECT 1 FROM line WHERE key = ?", (key,)).fetchone() is not None

    def scope(self, key: bytes, description: str) -> int:
        """The number under which verdicts of the scope `key` are kept; `description` is for a reader of the file."""
        self._db.execute("INSERT OR IGNORE INTO scope (key, said) VALUES (?, ?)", (key, description))
        return self._db.execute("SELECT id FROM scope WHERE key = ?", (key,)).fetchone()[0]

    def put_verdict(self, scope: int, pair_id: str, numbers: Sequence[float | None]) -> None:
        """Keep a valid verdict: p_first, bias, d_forward, d_backward, input_tokens, output_tokens, usd."""
        row = (scope, pair_numbers([pair_id])[0], *numbers)
        self._db.execute("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def verdicts(self, scope: int, pair_ids: Sequence[str]) -> list[tuple[float | None, ...]]:
        """For each of `pair_ids` the numbers that `put_verdict` kept; all None where there is no verdict."""
        asked = json.dumps(pair_numbers(pair_ids), separators=(",", ":"))
        return self._db.execute(_VERDICTS, (asked, scope)).fetchall()

    def batches(self, size: int = 50_000) -> Iterator[pyarrow.RecordBatch]:
        """All answers as Arrow record batches, in the order of their keys; memory is bounded by one batch."""
        import pyarrow as pa

        schema = pa.schema({
            "key": pa.binary(16), "value": pa.float64(), "outcome": pa.string(),
            "provider": pa.string(), "model": pa.string(),
            "input_tokens": pa.int64(), "output_tokens": pa.int64(), "usd": pa.float64(), "at": pa.float64(),
        })  # fmt: skip
        judges = {row[0]: row[1:] for row in self._db.execute("SELECT id, provider, model FROM judge")}
        cursor = self._db.execute(
            "SELECT key, value, outcome, judge, input_tokens, output_tokens, usd, at FROM answer ORDER BY key"
        )
        while rows := cursor.fetchmany(size):
            key, value, outcome, judge, *costs = zip(*rows, strict=True)
            columns = [key, value, outcome, *([judges[i][part] for i in judge] for part in (0, 1)), *costs]
            yield pa.record_batch(
                [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)],
                schema=schema,
            )

    def _judge(self, provider: str, model: str) -> int:
        if (provider, model) not in self._judges:
            self._db.execute("INSERT OR IGNORE INTO judge (provider, model) VALUES (?, ?)", (provider, model))
            found = self._db.execute("SELECT id FROM judge WHERE provider = ? AND model = ?", (provider, model))
            self._judges[provider, model] = found.fetchone()[0]
        return self._judges[provider, model]
