"""A cap on what is spent: reserved before a request is sent, settled when its cost is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from morlaif.errors import UserError


class Purse:
    """Spends at most `limit` US dollars (None: any sum), counting what `spent()` says has gone already."""

    def __init__(self, limit: float | None, spent: Callable[[], float]) -> None:
        self._limit, self._spent = limit, spent
        self._reserved = 0.0
        self._returned = asyncio.Event()  # set, and replaced, whenever a reservation ends

    @asynccontextmanager
    async def reserve(self, most: float) -> AsyncIterator[None]:
        """Set `most` dollars aside for one request, until its real cost is in `spent()`.

        Waits where only the reservations of others stand in the way, which are higher than what they will cost.

        Raises:
            UserError: the rest of the money is not enough.
        """
        while self._limit is not None and self._spent() + self._reserved + most > self._limit:
            if not self._reserved:
                raise UserError(
                    f"feedback.budget_usd={self._limit:g} is reached: {self._spent():.4f} USD are spent, over all runs "
                    "of this store. What was answered is kept. Raise the budget, then run again to go on."
                )
            await self._returned.wait()
        self._reserved += most
        try:
            yield
        finally:
            self._reserved = max(0.0, self._reserved - most)
            if self._reserved < 1e-12:
                self._reserved = 0.0
            self._returned.set()
            self._returned = asyncio.Event()
