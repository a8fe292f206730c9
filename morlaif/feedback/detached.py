"""Asking from a process of its own, so that what is on its way comes home even if the run that wanted it is killed.

A reply that was paid for must not be lost because the run was killed in the second before it came. So requests are
sent by a child in a session of its own. When the run's pipe breaks, the child sends nothing more, takes in the
replies that are on their way, which are answers in the ledger then, and ends. A restarted run finds those questions
claimed, waits for the answers, and asks for nothing twice.

    run ── settings, comparisons ──▶ client ──▶ server
        ◀── verdicts, counters ────         └──▶ ledger
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, BinaryIO, Protocol

from morlaif.errors import UserError
from morlaif.feedback.rating import Single
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.stream import Emit

AHEAD = 1000  # comparisons that the detached client holds before it asks for them
REPORT_EVERY = 0.1  # seconds between two reports of the counters

log = logging.getLogger("morlaif.feedback")


class Asker(Protocol):
    """What asks a server, in this process."""

    usage: Usage

    async def run(self, comparisons: Iterable[Any], emit: Emit[Any]) -> None:
        """Pass each verdict to `emit` as it arrives."""

    def stop(self) -> None:
        """Send nothing more."""


def ask_detached(
    make: Callable[..., Asker], arguments: tuple[Any, ...], comparisons: Iterable[Any], usage: Usage
) -> Iterator[tuple[Any, Any]]:
    """What `make(*arguments)` answers to `comparisons`, asked by a detached client; `usage` is kept up to date.

    Closing the iterator stops the client and waits until what was on its way is in the ledger.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "morlaif.feedback.detached"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None  # both are pipes
    stdin, stdout = child.stdin, child.stdout
    asked: dict[tuple[str, str], deque[Any]] = defaultdict(deque)
    failure: list[BaseException] = []  # of the iterator that gives the comparisons

    def feed() -> None:
        try:
            pickle.dump((make, arguments), stdin)
            for comparison in comparisons:
                asked[_name(comparison)].append(comparison)
                pickle.dump((comparison, usage.recalled), stdin)
                stdin.flush()
            pickle.dump(None, stdin)  # the end; the pipe stays open, for the client to see whether we live
            stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has stopped, and says why
        except BaseException as error:  # raised in the reader's thread
            failure.append(error)
            child.terminate()

    feeder = threading.Thread(target=feed, name="feedback", daemon=True)
    feeder.start()
    ended = False
    try:
        while not ended:
            try:
                kind, what = pickle.load(stdout)
            except EOFError:
                if failure:
                    raise failure[0] from None
                raise UserError("feedback: the process that asks was killed. Run the same command again.") from None
            match kind:
                case "verdict":
                    name, verdict = what
                    yield asked[name].popleft(), verdict
                case "usage":
                    _tell(usage, what)
                case "end":
                    ended = True
                    if what is not None:
                        raise what
    finally:
        if not ended:
            child.terminate()  # it stops as if we had died
            with contextlib.suppress(EOFError, pickle.UnpicklingError):
                while True:  # let it write until it is done
                    pickle.load(stdout)
        child.wait()
        feeder.join()
        stdout.close()
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
    if failure:
        raise failure[0]


def _tell(usage: Usage, counters: dict[str, Any]) -> None:
    for name, value in counters.items():
        if name == "warnings":
            for line in value[len(usage.warnings) :]:
                log.warning(line)
        if name != "recalled":
            setattr(usage, name, value)


def _name(comparison: Comparison | Single) -> tuple[str, str]:
    return comparison.id, comparison.principle.name if comparison.principle else ""


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """The side of the detached client."""
    logging.disable()  # the run logs: all warnings go to it
    make, arguments = pickle.load(source)
    judge: Asker = make(*arguments)
    error = None
    try:
        asyncio.run(_work(judge, source, sink))
    except BaseException as raised:  # handed to the run, whatever it is
        while isinstance(raised, BaseExceptionGroup):
            raised = raised.exceptions[0]
        error = raised
    with contextlib.suppress(OSError):
        pickle.dump(("usage", asdict(judge.usage)), sink)
        try:
            message = pickle.dumps(("end", error))
        except Exception:
            message = pickle.dumps(("end", RuntimeError(repr(error))))
        sink.write(message)
        sink.flush()


async def _work(judge: Asker, source: BinaryIO, sink: BinaryIO) -> None:
    loop = asyncio.get_running_loop()
    waiting: queue.Queue[Any] = queue.Queue(AHEAD)
    stopped = threading.Event()  # no more comparisons
    reported = 0.0

    def read() -> None:
        try:
            while (item := pickle.load(source)) is not None:
                waiting.put(item)
            waiting.put(None)
            os.read(source.fileno(), 1)  # returns when the run closes the pipe, or is gone
        except Exception:
            pass
        stop()

    def stop(*_: object) -> None:
        """What is on its way comes home, and nothing more leaves. For any thread, and for a signal."""
        stopped.set()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(judge.stop)

    def comparisons() -> Iterator[Comparison]:
        while not stopped.is_set():
            with contextlib.suppress(queue.Empty):
                if (item := waiting.get(timeout=0.05)) is None:
                    stopped.set()
                    return
                comparison, judge.usage.recalled = item
                yield comparison

    async def emit(item: tuple[Comparison, Verdict]) -> None:
        nonlocal reported
        comparison, verdict = item
        with contextlib.suppress(OSError):
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                pickle.dump(("usage", asdict(judge.usage)), sink)
            pickle.dump(("verdict", (_name(comparison), verdict)), sink)
            sink.flush()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=read, daemon=True).start()
    await judge.run(comparisons(), emit)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # a thread may still be waiting for the run to say more
