"""How many tokens a text has, roughly: for estimates, not for bills."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

FRAMING = 4  # tokens that a chat template adds to each message


def count(text: str, model: str) -> int:
    """Tokens of `text` for `model`: by tiktoken where it is installed and its tables are on this machine, else guessed.

    The guess: four bytes a token for plain English; other scripts take two to four bytes a character, and so more.
    """
    encode = _tiktoken(model)
    return len(encode(text)) if encode else math.ceil(len(text.encode("utf-8", "replace")) / 4)


def method(model: str) -> str:
    """How `count` counts, in words."""
    return "tiktoken" if _tiktoken(model) else "four bytes a token"


@cache
def _tiktoken(model: str) -> Callable[[str], list[int]] | None:
    """tiktoken would fetch tables that are missing: it is used only where its cache holds some."""
    places = (os.environ.get("TIKTOKEN_CACHE_DIR"), os.environ.get("DATA_GYM_CACHE_DIR"))
    folder = next(filter(None, places), os.path.join(tempfile.gettempdir(), "data-gym-cache"))
    if not any(Path(folder).glob("*")):
        return None
    try:
        import tiktoken

        encoding = tiktoken.encoding_for_model(model)
    except (
        Exception
    ):  # not installed, an unknown model, or its table is not the one that is there and cannot be fetched
        return None
    return lambda text: encoding.encode(text, disallowed_special=())
