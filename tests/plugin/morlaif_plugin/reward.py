"""A reward for plain words. It is made once for a unit, so a model could be loaded in `__init__`."""

from collections.abc import Sequence

from morlaif.data.records import Message


class Plain:
    def __init__(self, *, letters: int) -> None:
        self.letters = letters  # of a plain word, at most

    def __call__(self, prompts: Sequence[list[Message]], responses: Sequence[str]) -> list[float]:
        return [self.share(text.split()) for text in responses]

    def share(self, words: list[str]) -> float:
        return sum(len(word) <= self.letters for word in words) / max(len(words), 1)
