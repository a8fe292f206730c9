"""What a judge remembers: its valid verdicts, as the ledger keeps them under each principle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from morlaif.feedback.chunks import NUMBERS, Verdicts
from morlaif.feedback.ledger import Ledger
from morlaif.feedback.records import Verdict
from morlaif.feedback.settings import Principle

Scope = Callable[[Principle], tuple[bytes, str] | None]  # identity and description; None: nothing can have been asked


class VerdictCache:
    """`scope` names where verdicts under a principle are kept. Belongs to one thread at a time, as its ledger does."""

    def __init__(self, name: str, ledger: Ledger, scope: Scope) -> None:
        self.name = name  # the judge's
        self._ledger, self._scope = ledger, scope
        self._numbers: dict[tuple[bytes, str], int] = {}

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts:
        """What is known, with an invalid verdict for whatever is not."""
        if principle is None or (scope := self._scope(principle)) is None:
            return Verdicts.none(self.name, pair_ids)
        return Verdicts.of_rows(self.name, pair_ids, self._ledger.verdicts(self._number(scope), pair_ids))

    def keep(self, principle: Principle, verdict: Verdict) -> None:
        """Write down a valid verdict."""
        if (scope := self._scope(principle)) is None:
            raise ValueError(f"a verdict under {principle.name}, before it is known how the judge is asked")
        self._ledger.put_verdict(self._number(scope), verdict.pair_id, [getattr(verdict, name) for name in NUMBERS])

    def _number(self, scope: tuple[bytes, str]) -> int:
        if scope not in self._numbers:
            self._numbers[scope] = self._ledger.scope(*scope)
        return self._numbers[scope]
