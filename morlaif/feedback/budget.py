"""A cap on what is spent: reserved before a request is sent, settled when its cost is known, over all processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from morlaif.errors import BudgetSpent, UserError
from morlaif.feedback.ledger import Ledger, is_alive, new_owner

OTHERS = 0.2  # seconds between two looks at what other processes have set aside


class Budget:
    """Spends at most `limit` US dollars (None: any sum) of all that the ledger holds, with what is on its way.

    Reservations are in the ledger, so that several processes share one cap. What a killed process had set aside is
    given back: at once if it ran on this machine, else `stale` seconds after it last touched its reservation.
    """

    def __init__(self, limit: float | None, ledger: Ledger, stale: float) -> None:
        self._limit, self._ledger, self._stale = limit, ledger, stale
        self._owner = new_owner()
        self._reserved = 0  # requests of ours on their way
        self._returned = asyncio.Event()  # set, and replaced, whenever one of them ends
        if limit is not None:
            release_the_dead(ledger)

    @asynccontextmanager
    async def reserve(self, most: float) -> AsyncIterator[None]:
        """Set `most` dollars aside for one request, until its real cost is in the ledger.

        Waits where only reservations are in the way, which are higher than what they will cost.

        Raises:
            UserError: the rest of the money is not enough.
        """
        if self._limit is None:
            yield
            return
        while not self._ledger.reserve(self._owner, most, self._limit, self._stale):
            if not self._reserved and not self._ledger.reserved():
                raise spent_up(self._limit, self._ledger)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._returned.wait(), OTHERS)
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1
            self._ledger.release(self._owner, most if self._reserved else None)
            self._returned.set()
            self._returned = asyncio.Event()


def spent_up(limit: float, ledger: Ledger) -> UserError:
    """What to say when the money is gone."""
    return BudgetSpent(
        f"feedback.budget_usd={limit:g} is reached: {ledger.spent():.4f} USD are spent, over all runs "
        "of this store. What was answered is kept. Raise the budget, then run again to go on."
    )


def release_the_dead(ledger: Ledger) -> None:
    """Give back what processes of this machine had set aside that are gone."""
    for owner in ledger.owners():
        if not is_alive(owner, elsewhere=True):
            ledger.release(owner)
