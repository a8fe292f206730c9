"""A judge of two principles by counting words: what a small model can learn from a few pairs, and anybody can check."""

import re

from morlaif.data.records import Message
from morlaif.feedback.plugin import NoVerdict, PairJudge
from morlaif.feedback.settings import Principle


def detail(text: str) -> int:
    """Different words of five letters or more."""
    return len(set(re.findall(r"[a-z]{5,}", text.lower())))


def conciseness(text: str) -> int:
    """Words, each a step down."""
    return -len(text.split())


RULES = {"detail": detail, "conciseness": conciseness}


class Words(PairJudge):
    """Twenty to one for the response that has more by the rule of the principle; none where both have as much."""

    name = "words"

    def __init__(self, *, rule: str | None = None) -> None:
        self.rule = rule  # whatever the principle is called; null: that of its name

    def log_odds(self, prompt: list[Message], a: str, b: str, principle: Principle) -> float:
        count = RULES[self.rule or principle.name]
        if count(a) == count(b):
            raise NoVerdict("both have as much")
        return 3.0 if count(a) > count(b) else -3.0
