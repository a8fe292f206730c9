"""What preference models are called, and what their names tell."""

from __future__ import annotations

from collections.abc import Mapping

# The column of a reward that has but one, by the labels that it comes from: its preference model is called so, too.
WHOLE = {"constitution": "single", "human": "human", "mixed": "mixed"}
_TIMES = "_x"  # between such a name and what the model is given more of: single_x12_members
_OF = "@"  # between a name and the arm that has such a model to itself: helpfulness@lcb


def of_more(name: str, factors: Mapping[str, int]) -> str:
    """What a preference model of a whole is called that is given so many times as much."""
    return name + "".join(f"{_TIMES}{value}_{what}" for what, value in factors.items())


def own_of(name: str, arm: str) -> str:
    """What a preference model is called that one arm has to itself, since it changes `pm`."""
    return f"{name}{_OF}{arm}"


def is_own(model: str) -> bool:
    """Whether one arm has it to itself."""
    return _OF in model


def more_of(model: str) -> str:
    """What a model is given more, in words, as after a comma: "12 members"; empty where it is as `pm` says."""
    model = model.partition(_OF)[0]
    if labelled_by(model) == model:
        return ""
    parts = (part.split("_") for part in model.split(_TIMES)[1:])
    return ", ".join(f"{times} {what}" if what == "members" else f"{times} times the {what}" for times, what in parts)


def labelled_by(model: str) -> str:
    """The unit of `feedback`, by its name, whose labels a preference model learns from."""
    model = model.partition(_OF)[0]
    name, more, _ = model.partition(_TIMES)
    return name if more and name in WHOLE.values() else model
