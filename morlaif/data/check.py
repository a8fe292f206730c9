"""What is wrong with the data of a run, known before anything is built: its file is there, and its first rows read.

Light: reads the beginning of one file, and nothing from a hub; needs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from morlaif.data.load import input_files, name_of, read_example, rows_of
from morlaif.data.records import Example, Message
from morlaif.data.rows import MalformedRow, UnusableRow
from morlaif.data.settings import DataSettings, HubData, ToyData
from morlaif.errors import UserError
from morlaif.files import read_json, read_text

ROWS = 5_000  # of the file that are looked at,
SECONDS = 0.5  # and for how long


def data_problems(
    settings: DataSettings,
    *,
    pairs: bool = False,
    demonstrations: bool = False,
    refuses: Callable[[list[Message]], str | None] = lambda messages: None,
) -> Iterator[str]:
    """A line for each thing that is wrong, the key in front.

    Args:
        pairs: whether each row must hold two responses (`respond=pairs`).
        demonstrations: whether there must be something to imitate (SFT).
        refuses: why the model's chat template refuses a dialogue, None if it does not.
    """
    try:
        files = input_files(settings)
    except UserError as error:
        yield str(error)
        return
    if isinstance(settings, ToyData) or (isinstance(settings, HubData) and not files):
        return
    key = "data.path" if files else "data.source"
    seen: list[Example] = []
    whole = True  # whether all rows were looked at
    end = time.monotonic() + SECONDS
    rows = rows_of(settings)
    try:
        for where, row in islice(rows, ROWS):
            try:
                example = read_example(row, settings)
            except UnusableRow as error:
                if settings.bad_rows == "error":
                    yield f"{key}: {where}: {error}; or leave such rows out with data.bad_rows=skip"
                    return
                continue
            if pairs and example.chosen is None:
                yield f"{key}: {where}: no pair of responses; respond=pairs wants one in each, respond=sample none"
                return
            if (why := refuses(example.messages)) is not None:
                yield f"{key}: {where}: {why}"
                return
            seen.append(example)
            if time.monotonic() > end:
                whole = False
                break
        whole = whole and next(rows, None) is None
    except MalformedRow as error:
        yield f"{key}: {where}: {error}"
        return
    except UserError as error:
        yield f"{key}: {error}"
        return
    if whole and len(seen) < 2:
        yield f"{key}: {name_of(settings)}: {len(seen)} usable rows; it must hold at least two prompts"
    elif whole and demonstrations and all(example.demonstration is None for example in seen):
        yield f"{key}: {name_of(settings)}: no row holds a demonstration for SFT to imitate; use sft=none or other data"


def template_refuses(folder: Path) -> Callable[[list[Message]], str | None]:
    """A check of why the chat template in a model's folder refuses a dialogue; the user's turn may hold a system turn.

    Where there is no template, or one that is none (which the model's own check reports), nothing is refused.
    """
    from jinja2 import TemplateError

    from morlaif.data.chat import fold_system, refused
    from morlaif.data.template import NO_TOKENS, render, template_fault

    template = read_template(folder)
    if template is None or template_fault(template) is not None:
        return lambda messages: None

    def why(messages: list[Message]) -> str | None:
        errors: list[TemplateError] = []
        for turns in (messages, fold_system(messages)):
            if turns is None:
                continue
            try:
                render(template, turns, **NO_TOKENS)
                return None
            except TemplateError as raised:
                errors.append(raised)
        return refused(str(folder), messages, errors[0])

    return why


def read_template(folder: Path) -> str | None:
    """The chat template in a model's folder; None: there is none."""
    try:
        if (file := folder / "chat_template.jinja").is_file():
            text = read_text(file)
        else:
            text = read_json(folder / "tokenizer_config.json", of=dict).get("chat_template")
        if isinstance(text, list):
            text = next((one.get("template") for one in text if one.get("name") == "default"), None)
    except (UserError, AttributeError):
        return None
    return text if isinstance(text, str) else None
