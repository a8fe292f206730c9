"""What labelling will take, before anything is sent: requests, tokens, US dollars and time. Needs no network and no
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from morlaif.data.records import Pair
from morlaif.feedback import tokens
from morlaif.feedback.chunks import PairChunks
from morlaif.feedback.label import Assign, recall
from morlaif.feedback.ledger import Ledger
from morlaif.feedback.limiter import MARGIN
from morlaif.feedback.modes import Mode, Question, mode_of
from morlaif.feedback.prompt import comparison_messages
from morlaif.feedback.rating import Rated, Single
from morlaif.feedback.records import Comparison
from morlaif.feedback.settings import Criterion, FeedbackSettings, HfSettings, OpenAISettings, Principle
from morlaif.feedback.verdict_cache import VerdictCache

SAMPLE = 200  # pairs whose questions are written out and counted
ASSUMED_TOKENS = (80, 120, 120)  # of prompt and two responses, where there are no pairs yet
ASSUMED_SECONDS = 1.0  # a request, where no rate is known


@dataclass(frozen=True)
class CostEstimate:
    """For one unit of feedback. Numbers are for what is still to be asked."""

    name: str
    verdicts: int | None  # wanted; None: what it takes is not known
    known: int  # of these, in the ledger already: they cost nothing
    requests: float
    input_tokens: float
    output_tokens: float  # at most
    usd: float
    seconds: float | None  # None: as long as the server likes (batches)
    notes: tuple[str, ...] = ()


def estimate(
    name: str,
    settings: FeedbackSettings,
    assign: Assign,
    pairs: PairChunks | int,
    *,
    ledger: Path,
    together: Sequence[Principle] = (),
    lengths: tuple[int, int, int] = ASSUMED_TOKENS,
) -> CostEstimate:
    """What the unit `name` will take.

    Args:
        assign: the principles under which a pair is judged, by its id.
        pairs: the pairs, or how many there will be; then `lengths` tells the tokens of prompt and responses.
        ledger: where verdicts may be already; it need not exist.
        together: all principles of the run, for a joint request.
    """
    count = pairs if isinstance(pairs, int) else len(pairs)
    if isinstance(pairs, int):
        sample = [_stand_in(i, lengths) for i in range(min(count, 20))]
        notes: tuple[str, ...] = ("pairs are not built yet: their number is as configured, their length assumed",)
    else:
        sample, notes = list(islice(pairs, SAMPLE)), ()
    verdicts = count * (len(assign(sample[0].id)) if sample else 0)
    if isinstance(settings, HfSettings) and sample:
        return _local(name, settings, assign, sample, verdicts, len(together) or 1, notes)
    if not isinstance(settings, OpenAISettings) or not sample:
        return CostEstimate(name, verdicts, 0, 0, 0, 0, 0.0, 0.0, notes)

    known, logprobs = 0, None
    mode = mode_of(settings, together)
    if Path(ledger).is_file():
        with Ledger(ledger) as opened:
            logprobs = mode.known_logprobs(opened)
            if not isinstance(pairs, int) and logprobs is not None:
                cache = VerdictCache("", opened, partial(mode.scope, logprobs=logprobs))
                parts = (part for chunk in pairs.chunks() for part, _ in recall(cache, chunk, assign))
                known = sum(int(part.valid.sum()) for part in parts)
    elif settings.logprobs != "auto":
        logprobs = settings.logprobs == "always"
    if logprobs is None:
        logprobs = True
        notes += (_unknown_logprobs(settings),)

    made = _cost(name, settings, mode, assign, sample, verdicts - known, logprobs)
    if settings.mode == "joint" and together and settings.joint.audit_fraction:
        apart = settings.model_copy(update={"mode": "logprob"})
        share = round((verdicts - known) * settings.joint.audit_fraction)
        audit = _cost(name, apart, mode_of(apart, ()), assign, sample, share, logprobs)
        summed = {f: getattr(made, f) + getattr(audit, f) for f in ("requests", "input_tokens", "output_tokens", "usd")}
        made = replace(made, **summed)
    notes += (f"tokens counted by {tokens.method(settings.model)}",)
    seconds, more = _seconds(settings, made)
    return replace(made, verdicts=verdicts, known=known, seconds=seconds, notes=notes + more)


def estimate_ratings(
    name: str,
    settings: FeedbackSettings,
    criteria: Sequence[Criterion],
    responses: int,
    *,
    highest: int,
    ledger: Path,
    lengths: tuple[int, int],
) -> CostEstimate | None:
    """What rating so many responses, of `lengths` tokens (prompt, response), will take; None if it costs nothing.

    Nobody knows the responses before they are sampled, so none of the ratings counts as known.
    """
    if not isinstance(settings, OpenAISettings) or not responses or not criteria:
        return None
    mode = Rated(settings, highest)
    logprobs = {"always": True, "never": False}.get(settings.logprobs)
    if Path(ledger).is_file():
        with Ledger(ledger) as opened:
            logprobs = mode.known_logprobs(opened)
    notes: tuple[str, ...] = ("responses to be rated do not exist yet: their length is what they may have at most",)
    if logprobs is None:
        logprobs = True
        notes += (_unknown_logprobs(settings),)
    prompt, response = ("abc " * length for length in lengths)  # four letters are one token
    asked = [Single.of([{"role": "user", "content": prompt}], response, criterion) for criterion in criteria]
    questions = [question for single in asked for question in mode.questions(single, logprobs)]
    made = _total(name, settings, questions, responses * len(criteria), len(asked))
    seconds, more = _seconds(settings, made)
    notes += (f"tokens counted by {tokens.method(settings.model)}",)
    return replace(made, seconds=seconds, notes=notes + more)


def _local(
    name: str, settings: HfSettings, assign: Assign, sample: Sequence[Pair], verdicts: int, together: int,
    notes: tuple[str, ...],
) -> CostEstimate:  # fmt: skip
    """Of a model that runs here: two questions a verdict, with what principles share read once for all of them."""
    asked = [Comparison.of(pair, principle) for pair in sample for principle in assign(pair.id)]
    exemplars = settings.prompting.exemplars if settings.prompting else ()
    shared = 1 / together if settings.order == "pair" else 1.0
    read = 0.0
    for one in asked:
        whole = sum(tokens.count(m["content"], "") + tokens.FRAMING for m in comparison_messages(
            one.messages, one.first, one.second, one.wording, exemplars))  # fmt: skip
        own = tokens.count(f"{one.wording.question} {one.wording.description}", "")
        read += 2 * (own + shared * (whole - own))
    made = read * verdicts / len(asked)
    who = settings.path or "the run's own SFT model"
    notes += (f"hf: read here by {who}; what the ledger knows already is not left out",)
    thought = settings.prompting.thought if settings.prompting else None
    written = 2 * verdicts * thought.samples * thought.max_tokens if thought else 0
    notes += ("its reasoning is counted as long as it may be",) if written else ()
    return CostEstimate(name, verdicts, 0, 2 * verdicts, made, written, 0.0, None, notes)


def _unknown_logprobs(settings: OpenAISettings) -> str:
    return f"whether {settings.model} gives log-probabilities is not known: without, {settings.votes} times as much"


def _cost(
    name: str,
    settings: OpenAISettings,
    mode: Mode,
    assign: Assign,
    sample: Sequence[Pair],
    verdicts: int,
    logprobs: bool,
) -> CostEstimate:
    """For `verdicts` like those on the sample."""
    asked = [Comparison.of(pair, principle) for pair in sample for principle in assign(pair.id)]
    questions = [question for comparison in asked for question in mode.questions(comparison, logprobs)]
    return _total(name, settings, questions, verdicts, len(asked))


def _total(
    name: str, settings: OpenAISettings, questions: Sequence[Question], verdicts: int, sampled: int
) -> CostEstimate:
    """For `verdicts` in all, where `questions` are those of `sampled` ones."""

    def total(of: Callable[..., Any]) -> float:
        return sum(of(question) / question.share for question in questions) * verdicts / sampled

    def read(question: Question) -> int:
        return sum(tokens.count(m["content"], settings.model) + tokens.FRAMING for m in question.messages)

    requests, reading = total(lambda question: 1), total(read)
    writing = total(lambda question: question.decoding[settings.max_tokens_key])
    discount = settings.batch.discount if settings.delivery == "batch" else 1.0
    usd = discount * settings.price.usd(reading, writing)
    return CostEstimate(name, verdicts, 0, requests, reading, writing, usd, 0.0)


def _seconds(settings: OpenAISettings, made: CostEstimate) -> tuple[float | None, tuple[str, ...]]:
    if settings.delivery == "batch":
        return None, ("batches are answered within a day",)
    paces = [
        (made.requests, settings.requests_per_minute),
        (made.input_tokens + made.output_tokens, settings.tokens_per_minute),
    ]
    known = [60 * amount / (limit * MARGIN) for amount, limit in paces if limit]
    if known:
        return max(known), ()
    note = f"no rate is configured: time for {settings.concurrency} requests at once of {ASSUMED_SECONDS:g} s each"
    return made.requests * ASSUMED_SECONDS / settings.concurrency, (note,)


def _stand_in(number: int, lengths: tuple[int, int, int]) -> Pair:
    """A pair of the given numbers of tokens: four letters are one."""
    prompt, first, second = (f"{number:03d} " * length for length in lengths)
    return Pair.of([{"role": "user", "content": prompt}], first, second + ".")
