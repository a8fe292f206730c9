"""From data settings to examples in three splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.data.files import find_file, read_rows
from morlaif.data.records import Example
from morlaif.data.rows import MalformedRow, UnusableRow, sniff, to_example
from morlaif.data.settings import DataSettings, HubData, JsonlData, ToyData
from morlaif.data.split import deduplicate, draw, hold_out, openings
from morlaif.errors import UserError


@dataclass(frozen=True)
class Loaded:
    """What a source gave."""

    splits: dict[str, list[Example]]  # "sft", "train", "eval"
    rows: int  # read
    duplicates: int  # of the same content, left out
    skipped: list[dict[str, str]]  # {"where", "why"} of each row left out because it is of no use
    openings: int | None = None  # different first user turns, each on one side alone; None: the source splits itself
    left_out: int = 0  # rows of a held-out opening for which eval has no room


def input_files(settings: DataSettings) -> list[Path]:
    """The files whose content the examples depend on. Light: reads nothing.

    Raises:
        UserError: the settings name no source, or a file that is not there.
    """
    if isinstance(settings, ToyData):
        return []
    if settings.path is None:
        if isinstance(settings, JsonlData):
            raise UserError("data.path: null; name the file to read, as in data.path=prompts.jsonl")
        if settings.id is None:
            raise UserError("data.id: null; name a dataset of the hub, as in data.id=Anthropic/hh-rlhf, or a data.path")
        return []
    return [find_file("data.path", settings.path)]


def load(settings: HubData | JsonlData, seed: int) -> Loaded:
    """Read, check, deduplicate, draw and split the examples of a source. The order of its rows does not matter."""
    files = input_files(settings)
    rows = read_rows(files[0], settings.path) if files else _hub_rows(settings)
    skipped: list[dict[str, str]] = []
    examples = list(_examples(rows, settings, skipped))
    source = settings.path or settings.id
    if not examples:
        raise UserError(f"{source}: no usable row ({len(skipped)} skipped); it must hold at least two prompts")

    kept = deduplicate(examples) if settings.deduplicate else examples
    chosen = draw(kept, settings.limit, seed)
    try:
        train, held_out = hold_out(chosen, settings.eval_size, settings.eval_fraction, seed)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    splits = {"sft": [e for e in train if e.demonstration is not None], "train": train, "eval": held_out}
    left_out = len(chosen) - len(train) - len(held_out)
    counts = len(examples) + len(skipped), len(examples) - len(kept)
    return Loaded(splits, *counts, skipped, openings(chosen), left_out)


def _examples(
    rows: Iterable[tuple[str, dict[str, Any]]], settings: JsonlData | HubData, skipped: list[dict[str, str]]
) -> Iterator[Example]:
    """Examples of the rows; useless ones are an error or go to `skipped`, as the settings say."""
    for where, row in rows:
        try:
            yield read_example(row, settings)
        except MalformedRow as error:
            raise UserError(f"{where}: {error}") from None
        except UnusableRow as error:
            if settings.bad_rows == "error":
                raise UserError(f"{where}: {error}; or leave such rows out with data.bad_rows=skip") from None
            skipped.append({"where": where, "why": str(error)})


def read_example(row: dict[str, Any], settings: JsonlData | HubData) -> Example:
    """The example of a row, in the format that the settings name, or in its own.

    Raises:
        MalformedRow, UnusableRow: as `to_example`.
    """
    format = sniff(row, settings.columns) if settings.format == "auto" else settings.format
    return to_example(row, format, settings.columns)


def _hub_rows(settings: HubData) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    name = "/".join(filter(None, (settings.id, settings.data_dir or settings.subset)))
    try:
        dataset = load_dataset(
            settings.id,
            settings.subset,
            data_dir=settings.data_dir,
            revision=settings.revision,
            split=settings.split,
        )
    except Exception as error:  # the library raises many kinds: no network, no such dataset, split or revision
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data.id: cannot load '{name}', split '{settings.split}': {reason}. "
            "Check id, subset, revision and network, or read a local copy with data.path=file.jsonl"
        ) from None
    for number, row in enumerate(dataset, 1):
        yield f"{name}, split {settings.split}, row {number}", row
