"""Asynchronous work pulled from synchronous code, with or without an event loop of the caller's own (a notebook)."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
Emit = Callable[[T], Awaitable[None]]

WAITING = 4096  # items that may wait for the consumer before the producer pauses


def iterate(run: Callable[[Emit[Any]], Awaitable[None]]) -> Iterator[Any]:
    """Run the coroutine `run(emit)` in a thread with its own event loop, and yield what it emits, as it comes.

    What `run` raises is raised here (of a group, the first). Closing the iterator cancels `run` and waits for it.
    """
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    end = object()
    cancel: list[Callable[[], Any]] = []
    failure: list[BaseException] = []

    async def emit(item: Any) -> None:
        items.put(item)
        while items.qsize() > WAITING:
            await asyncio.sleep(0.002)

    async def main() -> None:
        task = asyncio.ensure_future(run(emit))
        loop = asyncio.get_running_loop()
        cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
        await task

    def work() -> None:
        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # handed to the consumer, whatever it is
            failure.append(error)
        finally:
            items.put(end)

    thread = threading.Thread(target=work, name="feedback", daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not end:
            yield item
    finally:
        if thread.is_alive() and cancel:
            with contextlib.suppress(RuntimeError):  # the loop may have closed in the meantime
                cancel[0]()
        thread.join()
    if failure:
        raise _first(failure[0])


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
