"""Why a reply holds no verdict, in the words that the ledger keeps and the counts show."""

from __future__ import annotations

from collections.abc import Iterable

from morlaif.feedback.arithmetic import MIN_MASS, Alternatives, gap, letter_mass, letter_of
from morlaif.feedback.ledger import OK

NO_LOGPROBS, NO_LETTER, NO_GRADE, NO_RATING = "no log-probabilities", "no letter", "no grade", "no rating"
NO_YES = "neither yes nor no"
REFUSAL, EMPTY, NO_JSON = "refusal", "empty reply", "no JSON object"
CUT_OFF, CUT_OFF_THINKING = "cut off", "cut off while thinking"
UNSOUND = "log-probabilities that are not numbers"
LITTLE_MASS = "hardly any probability on an answer"
ONE_OR_TEN = "a 1 that may begin a 10, and the server lists nothing after it"
UNDECIDED = "the answer is not among the listed log-probabilities"
NOT_FINITE = "scores that are not finite"
NO_ANSWER = "no answer"
LARGEST = 20.0  # nats; a log-probability is at most 0, and servers' rounding does not go so far

Value = tuple[float | None, str]  # the number in a reply and OK, or None and what is wrong


def tells_of_logprobs(outcome: str) -> bool:
    """Whether a reply with this outcome shows if the model gives log-probabilities."""
    return outcome not in (REFUSAL, EMPTY, CUT_OFF, CUT_OFF_THINKING)


def advice(outcomes: Iterable[str]) -> str:
    """What would help against these outcomes, as a sentence with a blank before it; empty: nothing particular."""
    outcomes = set(outcomes)
    if CUT_OFF_THINKING in outcomes:
        return (
            " The model thinks before it answers: turn that off (feedback.extra_body="
            "{chat_template_kwargs:{enable_thinking:false}} on vLLM, SGLang and llama.cpp, {reasoning_effort:none} or "
            "minimal elsewhere), or allow longer replies (feedback.max_tokens)."
        )
    if CUT_OFF in outcomes:
        return " Replies were cut off: allow longer ones (max_tokens of feedback, or of its cot, score or joint)."
    return ""


def sound(alternatives: Alternatives) -> bool:
    """Whether these are log-probabilities; −inf is one."""
    return all(x < LARGEST for _, x in alternatives)  # false for NaN


def odds(alternatives: Alternatives) -> Value:
    """The log-odds of A among the alternatives for one token."""
    if not sound(alternatives):
        return None, UNSOUND
    if (value := gap(alternatives)) is not None:
        return value, OK
    if not any(letter_of(token) for token, _ in alternatives):
        return None, NO_LETTER
    return None, LITTLE_MASS if letter_mass(alternatives) < MIN_MASS else UNDECIDED
