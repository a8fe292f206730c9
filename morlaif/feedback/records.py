"""What is asked, and what a judge's answer is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morlaif.data.arrow import Rows
from morlaif.data.records import Message, Pair
from morlaif.feedback.settings import Principle

VERDICTS = "verdicts"  # folder of the verdicts inside the artifact of `feedback`


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to be judged under one principle, in both orders."""

    id: str  # of the pair
    messages: list[Message]  # ends with a user turn
    first: str
    second: str
    principle: Principle | None  # None: the source needs no wording (human labels)
    human: float | None = None  # human probability that `first` is better, where the data has it

    @classmethod
    def of(cls, pair: Pair, principle: Principle | None) -> Comparison:
        return cls(pair.id, pair.messages, pair.first, pair.second, principle, pair.human)

    @property
    def wording(self) -> Principle:
        """The principle, for a source that needs one."""
        if self.principle is None:
            raise ValueError(f"pair {self.id}: to be judged under no principle, by a source that needs one")
        return self.principle


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's answer about one pair. Invalid verdicts are counted and left out: they are never ties."""

    pair_id: str
    p_first: float | None  # probability that the first response is better, mean of both orders; None: invalid
    bias: float | None  # log-odds given away to whichever option is shown first; None: invalid
    valid: bool
    judge: str  # who judged, such as "rules" or "openai:gpt-4.1-mini"
    d_forward: float | None = None  # log-odds of option A with `first` shown as A; None: not asked, or no answer
    d_backward: float | None = None  # log-odds of option A with `second` shown as A
    reason: str | None = None  # why it is invalid
    input_tokens: float = 0.0  # what it took, in this run or before; a share where one request served several
    output_tokens: float = 0.0
    usd: float = 0.0

    @classmethod
    def invalid(
        cls,
        pair_id: str,
        judge: str,
        reason: str,
        forward: float | None = None,
        backward: float | None = None,
        cost: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Verdict:
        return cls(pair_id, None, None, False, judge, forward, backward, reason, *cost)


@dataclass(slots=True)
class Usage:
    """What a judge has done so far."""

    method: str | None = None  # how letters became probabilities: "logprob" or "vote"
    requests: int = 0  # answered by the server in this run
    recalled: int = 0  # verdicts that were in the ledger
    cached: int = 0  # single answers that were in the ledger, of verdicts that were not
    retries: int = 0  # requests repeated after a server error, a time-out or a dropped connection
    waits: int = 0  # times that the server asked to slow down (429)
    input_tokens: int = 0
    output_tokens: int = 0
    reused_tokens: int = 0  # that a local model did not have to read again
    usd: float = 0.0  # spent in this run
    letters: int = 0  # log-probabilities of a letter that were read in this run
    letter_mass: float = 0.0  # the sum over them of the probability on A and B
    warnings: list[str] = field(default_factory=list)  # logged, once each
    served: dict[str, Any] | None = None  # which model answered, by its server; None: nobody asked it

    @property
    def mean_letter_mass(self) -> float | None:
        return self.letter_mass / self.letters if self.letters else None

    def weigh(self, mass: float | None) -> None:
        """Count the probability that lies on the letters of one answer; None: it is not known."""
        if mass is not None:
            self.letters, self.letter_mass = self.letters + 1, self.letter_mass + mass


VERDICT_COLUMNS = {
    "pair_id": "string", "p_first": "float64", "bias": "float64", "valid": "bool", "judge": "string",
    "d_forward": "float64", "d_backward": "float64", "reason": "string",
}  # fmt: skip


def load_verdicts(folder: Path, split: str) -> Rows[Verdict]:
    """The verdicts of `split` ("train" or "eval") from the artifact of `feedback`; join them to pairs by `pair_id`."""
    return Rows(Path(folder) / VERDICTS, split, Verdict)
