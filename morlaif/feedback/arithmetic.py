"""From a judge's log-probabilities to a soft label: pure functions on numbers.

A *gap* d is log P(A) − log P(B), the judge's log-odds that the option shown as A is better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

FLOOR = -25.0  # nothing is believed to be less likely: servers write −9999 or −inf for whatever rounds to zero
MIN_MASS = 0.01  # probability that must lie on the answers that are asked for; a model with less says something else
ROUNDING = 1e-3  # by which a log-probability may exceed 0
_WRAPPING = " \t\n\r▁ĠĊ\"'`*_()[]{}.,:;!"  # what may surround the letter in a token: blanks, quotes, Markdown, brackets
_WIDE = str.maketrans("ＡＢ", "AB")  # as East Asian models write them; letters of other alphabets are other letters

Alternatives = Sequence[tuple[str, float]]  # the tokens listed for one position, with their log-probabilities


def letter_of(token: str) -> str | None:
    """ "A" or "B" for any variant of the token ("A", " A", "(A", "A.", "Option A"), else None: "a" is a word."""
    bare = token.translate(_WIDE).strip(_WRAPPING)
    if bare[:6].lower() == "option":
        bare = bare[6:].strip(_WRAPPING)
    return bare if bare in ("A", "B") else None


def letter_at(text: str, whole: bool = True) -> int | None:
    """Where in `text` the letter is that it opens with ("B.", "A) because"), else the only one that it names.

    `whole`: the text is complete; of one that was cut off, only what it opens with counts.
    """
    text = text.translate(_WIDE)
    if opening := re.match(r"\W*([AB])\s*(?:$|[.):,*\n])", text):
        return opening.start(1)
    named = list(re.finditer(r"\b(B|A(?! (?!or\b|and\b|is\b)[a-z]))\b", text))  # not the article
    return named[0].start() if whole and len({found[0] for found in named}) == 1 else None


def letter_in(text: str, whole: bool = True) -> str | None:
    """The letter at that place, or None."""
    at = letter_at(text, whole)
    return None if at is None else text.translate(_WIDE)[at]


def log_add(values: Iterable[float]) -> float:
    """log Σ exp(x), safe against overflow; −inf for nothing."""
    values = list(values)
    top = max(values, default=-math.inf)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(x - top) for x in values))


def gap(alternatives: Alternatives) -> float | None:
    """log P(A) − log P(B) from the alternatives listed for one token.

    Variants of a letter are summed. A letter that is not listed is censored at the smallest log-probability of the
    others, which bounds it from above; where nothing but the other letter is listed, at what that leaves over. There
    is no answer, and the result is None, where neither is listed, where hardly any probability lies on them, and where
    that bound lies above the letter that is listed: a letter that was forced upon a model may be no likelier than the
    other. Not a number (NaN) is no answer either, and what lies above 0 by more than rounding is no log-probability.
    """
    if any(math.isnan(x) or x > ROUNDING for _, x in alternatives):
        return None
    listed = [(letter_of(token), max(logprob, FLOOR)) for token, logprob in alternatives]
    a, b = (log_add(x for letter, x in listed if letter == wanted) for wanted in ("A", "B"))
    if max(a, b) < math.log(MIN_MASS) and letter_mass(alternatives) < MIN_MASS:
        return None
    if math.isinf(a) or math.isinf(b):
        rest = [x for letter, x in listed if not letter]
        bound = min(rest) if rest else math.log(max(1.0 - math.exp(max(a, b)), math.exp(FLOOR)))
        if bound > max(a, b) and rest:
            return None
        a, b = (bound if math.isinf(x) else x for x in (a, b))
    return a - b


def letter_mass(alternatives: Alternatives) -> float:
    """The probability that lies on the letters listed, at most 1."""
    return min(1.0, math.exp(min(0.0, log_add(x for token, x in alternatives if letter_of(token)))))


def gap_from_votes(a: int, b: int) -> float | None:
    """Log-odds from sampled letters, half a vote added to each: a unanimous vote stays finite. None without votes."""
    return math.log((a + 0.5) / (b + 0.5)) if a + b else None


def mean_gap(gaps: Sequence[float]) -> float:
    """The log-odds of the mean probability of A over several gaps; of one, itself."""
    if len(gaps) == 1:
        return gaps[0]
    a, b = (log_add(-log_add((0.0, -sign * d)) for d in gaps) for sign in (1.0, -1.0))
    return a - b


def logit(p: float) -> float:
    """log p − log (1 − p), for 0 < p < 1."""
    return math.log(p) - math.log1p(-p)


def soft_label(forward: float, backward: float) -> float:
    """Probability that the first response is better: p = ½ [σ(d₁) + σ(−d₂)].

    `forward` is the gap with the first response shown as A, `backward` with the second shown as A. Written with tanh,
    so that equal gaps (a judge who sees no difference, or picks a place) give exactly ½.
    """
    return 0.5 + 0.25 * (math.tanh(0.5 * forward) - math.tanh(0.5 * backward))


def position_bias(forward: float, backward: float) -> float:
    """Signed log-odds given away to whichever option is shown first: (d₁ + d₂) / 2."""
    return 0.5 * (forward + backward)
