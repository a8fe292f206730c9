"""A judge that prefers the shorter response, whatever the principle."""

from morlaif.data.records import Message
from morlaif.feedback.plugin import PairJudge
from morlaif.feedback.settings import Principle


class Shorter(PairJudge):
    name = "shorter"

    def __init__(self, *, words: float) -> None:
        self.words = words  # by which one must be shorter to be e times as likely the better

    def log_odds(self, prompt: list[Message], a: str, b: str, principle: Principle) -> float:
        return (len(b.split()) - len(a.split())) / self.words
