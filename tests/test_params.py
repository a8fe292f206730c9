"""What a config gives to a function by name is checked before the function is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from morlaif.errors import UserError
from morlaif.params import checked, wanted


def shorten(first, second, *, to: int, end: str = "…", file: Path | None = None, seed=0): ...


class Shortener:
    def __init__(self, to: tuple[int, ...], **rest): ...


def of(params, function=shorten, first=2):
    return checked(params, wanted(function, ["seed"], first=first), key="text.params", path="my.shorten", name="short")


def test_each_value_becomes_what_its_annotation_says():
    assert of({"to": 3, "file": "a/b"}) == {"to": 3, "file": Path("a/b")}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"to": 3, "ende": "."}, "text.params.ende: 'my.shorten' has no such parameter (it has: to, end, file). "
                                 "Did you mean 'end'?"),
        ({"to": 3, "seed": 1}, "text.params.seed: 'my.shorten' has no such parameter (it has: to, end, file)."),
        ({}, "text.params.to is missing: 'my.shorten' needs it"),
        ({"to": "3"}, "text.params.to of 'short': value should be a valid integer, got '3'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_key(params, says):
    with pytest.raises(UserError, match=re.escape(says) + "$"):
        of(params)


def test_where_any_name_will_do_only_the_named_ones_are_checked():
    assert of({"to": [3, 4], "more": 1}, Shortener, 0) == {"to": (3, 4), "more": 1}
    with pytest.raises(UserError, match=r"text\.params\.to is missing"):
        of({"more": 1}, Shortener, 0)
