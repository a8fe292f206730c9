"""The same questions by the batch interface: files of requests, cheaper, answered within a day.

What is about to be sent is written down before it is sent, and its number at the server as soon as there is one: a run
may stop at any moment, and a later one finds the open batches, by number or by the name that they carry, and collects
them. Each line carries the key of its question, so that neither order nor run matters. Lines that expired or failed in
passing are sent again; both the output and the error file are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import IO, Any

import openai
from filelock import FileLock

from morlaif.errors import MachineError, UserError
from morlaif.feedback.answering import ReplyNames
from morlaif.feedback.budget import spent_up
from morlaif.feedback.chat import KEPT, ROW_CODES
from morlaif.feedback.ledger import OK, Answer, Ledger
from morlaif.feedback.modes import READERS, Mode, Question, stored
from morlaif.feedback.outcomes import Value
from morlaif.feedback.reach import FATAL_CODES, api_key
from morlaif.feedback.reading import most_usd, reading
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.reply import Garbled, Reply, parse
from morlaif.feedback.settings import OpenAISettings
from morlaif.feedback.verdict_cache import VerdictCache
from morlaif.texts import redact

log = logging.getLogger("morlaif.feedback")

ENDED = ("completed", "failed", "expired", "cancelled")
TOO_MANY = "token_limit_exceeded"  # of a batch that was refused since too much is waiting already
ROUGH = 3.0  # bytes a token, for the limit of waiting tokens: on the safe side


def deliver(
    settings: OpenAISettings, mode: Mode, ledger: Ledger, comparisons: Iterable[Comparison], logprobs: bool, usage:
    Usage, scope: Callable[..., Any], judge: str, watch: ReplyNames,
) -> Iterator[tuple[Comparison, Verdict]]:  # fmt: skip
    """Have all answers in the ledger, then give the verdicts.

    Raises:
        UserError: the server refuses; the money is gone; or `batch.wait` is over, and a later run may collect.
    """
    with tempfile.TemporaryFile() as spool, FileLock(ledger.path.with_name("batches.lock")):
        for asked in comparisons:
            pickle.dump(asked, spool)
        batches = Batches(settings, ledger, usage, watch)
        batches.adopt()
        for _ in range(settings.batch.rounds):
            sent = batches.send(question for asked in _read(spool) for question in mode.questions(asked, logprobs))
            batches.collect()
            if not sent:
                break
        cache = VerdictCache(judge, ledger, lambda principle: scope(principle, logprobs))
        for asked in _read(spool):
            answers = [(question, batches.answer(mode.key(question))) for question in mode.questions(asked, logprobs)]
            readings = [reading(question, *answer) for question, answer in answers]
            verdict = mode.verdict(asked, readings, logprobs, judge)
            if verdict.valid:
                cache.keep(asked.wording, verdict)
            yield asked, verdict


def _read(spool: IO[bytes]) -> Iterator[Comparison]:
    spool.seek(0)
    while True:
        try:
            yield pickle.load(spool)
        except EOFError:
            return


class Batches:
    """The open batches of one model, of this run and of earlier ones."""

    def __init__(self, settings: OpenAISettings, ledger: Ledger, usage: Usage, watch: ReplyNames) -> None:
        self._settings, self._ledger, self._usage, self._watch = settings, ledger, usage, watch
        self._provider = settings.who_at
        self._client = openai.OpenAI(
            api_key=api_key(settings),
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=settings.retries,
        )
        self._refused: dict[bytes, str] = {}  # what the server will not answer, and why: not asked again in this run
        self._deadline = None if settings.batch.wait is None else time.monotonic() + settings.batch.wait

    def answer(self, key: bytes) -> tuple[Answer, Any]:
        """What is known of a question, with the reply where it must be read again."""
        known = self._ledger.get(key) or Answer(None, self._refused.get(key, "not answered in time"))
        raw = self._ledger.raw(key) if known.outcome == OK and known.value is None else None
        return known, parse(raw) if raw else None

    def adopt(self) -> None:
        """Find what an earlier run was sending when it ended: it arrived, under the name it was given, or it did
        not.
        """
        lost = [name for name, id, *_ in self._open() if id is None]
        arrived = {}
        if lost:
            for batch in self._call(lambda: list(self._client.batches.list(limit=100))):
                arrived[(batch.metadata or {}).get("morlaif")] = batch.id
        for name in lost:
            self._ledger.sent_batch(name, arrived[name]) if name in arrived else self._ledger.end_batch(name)

    def send(self, questions: Iterable[Question]) -> int:
        """Send what is neither known nor on its way, in files within the limits; how many lines that were."""
        count = 0
        limits = self._settings.batch
        file = Draft()
        for question in questions:
            key = self._key(question)
            known = self._ledger.get(key)
            if (known and (known.outcome == OK or not self._settings.ask_again)) or key in self._refused:
                continue
            if key in file.keys or self._ledger.on_its_way(key):
                continue
            line = self._line(key, question)
            if file.keys and (len(file.keys) >= limits.max_requests or file.bytes + len(line) > limits.max_bytes):
                self._submit(file)
                file = Draft()
            file.add(key, line, most_usd(question, self._settings) * limits.discount, READER_NAMES[stored(question)])
            count += 1
        if file.keys:
            self._submit(file)
        return count

    def collect(self) -> None:
        """Wait for all open batches, and take in their answers."""
        while self._look():
            self._pause()

    def _submit(self, file: Draft) -> None:
        settings, ledger = self._settings, self._ledger
        most = settings.batch.max_enqueued_tokens
        while most is not None and (waiting := sum(row[3] for row in self._open())) and waiting + file.tokens > most:
            if self._look():
                self._pause()
        name = hashlib.sha256(b"".join([*file.keys, str(time.time_ns()).encode()])).hexdigest()[:16]
        while settings.budget_usd is not None and not ledger.reserve(
            f"batch {name}", file.usd, settings.budget_usd, 86400
        ):
            if not self._look():
                raise spent_up(settings.budget_usd, ledger)
            self._pause()
        ledger.begin_batch(name, list(file.keys), self._provider, settings.who, file.reader, file.tokens)
        file.body.seek(0)
        upload = self._call(lambda: self._client.files.create(file=(f"{name}.jsonl", file.body), purpose="batch"))
        batch = self._call(
            lambda: self._client.batches.create(
                input_file_id=upload.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"morlaif": name},
            )
        )
        ledger.sent_batch(name, batch.id)
        log.info("batch %s: %d requests sent", batch.id, len(file.keys))

    def _look(self) -> int:
        """Take in whatever has ended; how many batches are still open."""
        still = 0
        for name, id, reader, _ in self._open():
            assert id is not None  # `adopt` has found or forgotten those that were never sent
            batch = self._call(partial(self._client.batches.retrieve, id))
            if batch.status not in ENDED:
                still += 1
                continue
            for file in (batch.output_file_id, batch.error_file_id):
                if file:
                    self._take(file, READERS[reader])
            if batch.status == "failed":
                self._failed(name, batch)
            self._ledger.end_batch(name)
        return still

    def _take(self, file: str, read: Callable[[Reply], Value]) -> None:
        """Answers enter the ledger, a thousand lines at a time; a line that was taken in before is left alone."""
        with self._client.files.with_streaming_response.content(file) as content, Chunks(self._ledger) as chunks:
            for line in content.iter_lines():
                if line.strip():
                    chunks.one()
                    self._line_back(json.loads(line), read)

    def _line_back(self, row: dict[str, Any], read: Callable[[Reply], Value]) -> None:
        key = bytes.fromhex(row["custom_id"])
        known = self._ledger.get(key)
        if known and known.outcome == OK:
            return
        response = row.get("response") or {}
        body, status = response.get("body") or {}, response.get("status_code")
        if status == 200:
            try:
                reply = parse(json.dumps(body))
            except Garbled:
                return  # sent again
            usd = self._settings.batch.discount * self._settings.price.usd(reply.input_tokens, reply.output_tokens)
            self._usage.requests += 1
            self._usage.input_tokens += reply.input_tokens
            self._usage.output_tokens += reply.output_tokens
            self._usage.usd += usd
            value, outcome = read(reply)
            answer = Answer(value, outcome, reply.input_tokens, reply.output_tokens, usd)
            self._watch(reply)  # another model's line ends the run; its batch stays open, to be collected if allowed
            self._ledger.put(key, self._provider, self._settings.who, answer, reply.raw)
            return
        error = body.get("error") or row.get("error") or {}
        code, reason = str(error.get("code")), str(error.get("message") or error.get("code"))
        if code in FATAL_CODES or status in (401, 402, 403, 404):
            raise UserError(f"{self._where}: {reason} ({code}). {KEPT}")
        if code in ROW_CODES or status in (400, 413, 422):
            self._refused[key] = f"rejected: {reason}"[:200]
        else:
            self._usage.retries += 1  # expired, cancelled, rate limited, a server error: sent again in the next round

    def _failed(self, name: str, batch: Any) -> None:
        """A batch that was refused as a whole."""
        errors = (batch.errors.data or []) if batch.errors else []
        if any(error.code == TOO_MANY for error in errors):
            log.warning("%s: too many tokens are waiting; lower feedback.batch.max_enqueued_tokens", batch.id)
            self._pause()
            return
        self._ledger.end_batch(name)
        reason = "; ".join(f"{error.message} (line {error.line})" for error in errors[:3]) or "no reason given"
        raise UserError(f"{self._where}: batch {batch.id} was refused: {reason}")

    def _pause(self) -> None:
        if self._deadline is not None and time.monotonic() + self._settings.batch.poll > self._deadline:
            ids = ", ".join(id for _, id, *_ in self._open() if id)
            raise UserError(
                f"{self._where}: batches are under way ({ids}), and feedback.batch.wait="
                f"{self._settings.batch.wait:g} s is over. {KEPT} Run the same command later to collect them."
            )
        time.sleep(self._settings.batch.poll)

    def _open(self) -> list[tuple[str, str | None, str, float]]:
        return self._ledger.open_batches(self._provider, self._settings.who)

    def _key(self, question: Question) -> bytes:
        from morlaif.feedback.ledger import key_of

        return key_of(self._provider, self._settings.who, question.messages, question.decoding, question.sample)

    def _line(self, key: bytes, question: Question) -> bytes:
        body = {"model": self._settings.model, "messages": question.messages, **question.decoding}
        row = {"custom_id": key.hex(), "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def _call(self, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except openai.APIStatusError as error:
            reason = redact(" ".join(str(error.message).split()))[:300]
            raise UserError(
                f"{self._where}: the server refused with status {error.status_code} ({reason}). {KEPT}"
            ) from None
        except openai.APIConnectionError as error:
            raise MachineError(f"{self._where}: no answer ({error}). {KEPT} Run the same command again.") from None

    @property
    def _where(self) -> str:
        return f"feedback from {self._settings.model} at {self._settings.base_url}, by batch"


READER_NAMES = {reader: name for name, reader in READERS.items()}


class Draft:
    """A file of requests to come, on disk."""

    def __init__(self) -> None:
        self.body = tempfile.TemporaryFile()  # noqa: SIM115  closed with the draft
        self.keys: dict[bytes, None] = {}
        self.bytes, self.usd, self.reader = 0, 0.0, ""

    def add(self, key: bytes, line: bytes, usd: float, reader: str) -> None:
        self.body.write(line)
        self.keys[key] = None
        self.bytes, self.usd, self.reader = self.bytes + len(line), self.usd + usd, reader

    @property
    def tokens(self) -> float:
        return self.bytes / ROUGH


class Chunks:
    """Transactions of a thousand steps each."""

    def __init__(self, ledger: Ledger, size: int = 1000) -> None:
        self._ledger, self._size, self._steps = ledger, size, 0

    def __enter__(self) -> Chunks:
        self._transaction = self._ledger.transaction()
        self._transaction.__enter__()
        return self

    def one(self) -> None:
        self._steps += 1
        if self._steps % self._size == 0:
            self._transaction.__exit__(None, None, None)
            self.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._transaction.__exit__(None, None, None)  # what was read before an error is kept
