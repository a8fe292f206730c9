"""From data settings to examples in three splits."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from morlaif.data.files import find_file, find_files, read_rows
from morlaif.data.records import Example, first_of_each
from morlaif.data.rows import MalformedRow, UnusableRow, sniff, to_example
from morlaif.data.settings import DataSettings, HubData, JsonlData, PluginData, ToyData
from morlaif.data.split import draw, hold_out, identity, opening
from morlaif.data.spool import Picked, Spool, as_json, json_spool, of_json
from morlaif.errors import UserError

RowSource = JsonlData | HubData | PluginData


@dataclass(frozen=True)
class Loaded:
    """What a source gave."""

    splits: Mapping[str, Sequence[Example]]  # "sft", "train", "eval"
    rows: int  # read
    duplicates: int  # of the same content, left out
    skipped: Sequence[dict[str, str]]  # {"where", "why"} of each row left out because it is of no use
    openings: int | None = None  # different first user turns, each on one side alone; None: the source splits itself
    left_out: int = 0  # rows of a held-out opening for which eval has no room
    pairs: int | None = None  # rows of "train" and "eval" that hold a pair; None: they were not counted


def input_files(settings: DataSettings) -> list[Path]:
    """The files whose content the examples depend on. Light: reads nothing.

    Raises:
        UserError: the settings name no source, or a file that is not there; or the function of another package is not
            there, or has other parameters.
    """
    if isinstance(settings, ToyData):
        return []
    if isinstance(settings, PluginData):
        files = [] if settings.path is None else [find_file("data.path", settings.path, "a file")]
        settings.found(files[0] if files else None)
        return files
    if settings.path is None:
        if isinstance(settings, JsonlData):
            raise UserError("data.path: null; name the file to read, as in data.path=prompts.jsonl")
        if settings.id is None:
            raise UserError("data.id: null; name a dataset of the hub, as in data.id=Anthropic/hh-rlhf, or a data.path")
        return []
    return find_files("data.path", settings.path)


def load(settings: RowSource, seed: int, folder: Path | None = None) -> Loaded:
    """Read, check, deduplicate, draw and split the examples of a source. The order of its rows does not matter.

    What it takes of memory are some bytes a row. The examples lie in a file without a name in `folder` (where temporary
    files lie, by default), from which the splits read them.
    """
    skipped = json_spool(folder)
    examples, facts = _spooled(_examples(rows_of(settings), settings, skipped), folder)
    source = name_of(settings)
    if not len(examples):
        raise UserError(f"{source}: no usable row ({len(skipped)} skipped); it must hold at least two prompts")

    kept = first_of_each(facts.identity) if settings.deduplicate else np.arange(len(examples))
    chosen = kept[draw(facts.identity[kept], settings.limit, seed)]
    try:
        train, held_out = hold_out(facts.opening[chosen], settings.eval_size, settings.eval_fraction, seed)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    places = {"train": chosen[train], "eval": chosen[held_out]}
    places = {"sft": places["train"][facts.demonstrated[places["train"]]]} | places
    return Loaded(
        {split: Picked(examples, which.tolist()) for split, which in places.items()},
        rows=len(examples) + len(skipped),
        duplicates=len(examples) - len(kept),
        skipped=skipped,
        openings=len(np.unique(facts.opening[chosen])),
        left_out=len(chosen) - len(train) - len(held_out),
        pairs=int(sum(facts.paired[places[split]].sum() for split in ("train", "eval"))),
    )


class _Facts(NamedTuple):
    """What is kept in memory of N examples."""

    identity: NDArray[np.uint64]
    opening: NDArray[np.uint64]
    demonstrated: NDArray[np.bool_]
    paired: NDArray[np.bool_]


def _spooled(examples: Iterable[Example], folder: Path | None) -> tuple[Sequence[Example], _Facts]:
    spool = Spool(_packed, _unpacked, folder)
    identities, openings, kinds = array("Q"), array("Q"), array("B")
    for example in examples:
        spool.append(example)
        identities.append(identity(example))
        openings.append(opening(example))
        kinds.append((example.demonstration is not None) + 2 * (example.chosen is not None))
    of = np.frombuffer(kinds, dtype=np.uint8)
    hashes = [np.frombuffer(column, dtype=np.uint64) for column in (identities, openings)]
    return spool, _Facts(hashes[0], hashes[1], (of & 1).astype(bool), (of & 2).astype(bool))


def _packed(example: Example) -> bytes:
    turns = [[turn["role"], turn["content"]] for turn in example.messages]
    return as_json([example.id, turns, example.demonstration, example.chosen, example.rejected])


def _unpacked(raw: bytes) -> Example:
    name, turns, *rest = of_json(raw)
    return Example(name, [{"role": role, "content": content} for role, content in turns], *rest)


def name_of(settings: RowSource) -> str:
    """What messages call a source."""
    return settings.path or (settings.id if isinstance(settings, HubData) else settings.source) or ""


def rows_of(settings: RowSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every row of a source.

    Raises:
        UserError: the source, or the place of what cannot be read.
    """
    files = input_files(settings)
    if isinstance(settings, PluginData):
        return _rows_of_others(settings, files[0] if files else None)
    if len(files) == 1:
        return read_rows(files[0], settings.path if files[0].name == Path(settings.path or "").name else str(files[0]))
    if files:
        return chain.from_iterable(read_rows(file) for file in files)
    assert isinstance(settings, HubData)  # a file is its own only source
    return hub_rows(settings)


def _rows_of_others(settings: PluginData, file: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    name, place = name_of(settings), 0
    try:
        for row in settings.found(file)():
            place += 1
            if not isinstance(row, Mapping):
                raise UserError(
                    f"{name}, row {place}: '{settings.source}' gave {type(row).__name__}; each row must be a "
                    "mapping of columns"
                )
            yield f"{name}, row {place}", dict(row)
    except ValueError as error:  # as a reader says of text that it cannot read
        raise UserError(f"{name}, after row {place}: '{settings.source}' cannot read it: {error}") from error


def _examples(
    rows: Iterable[tuple[str, dict[str, Any]]], settings: RowSource, skipped: Spool[dict[str, str]]
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


def first_examples(settings: RowSource, most: int) -> list[Example]:
    """Those of the first rows of a file that lies here; of a hub's dataset, of code of others, and of rows that are of
    no use: none."""
    if isinstance(settings, PluginData) or settings.path is None:
        return []
    found = []
    with suppress(UserError):  # which is reported where the rows are wanted
        for _, row in islice(rows_of(settings), most):
            with suppress(MalformedRow, UnusableRow):
                found.append(read_example(row, settings))
    return found


def read_example(row: dict[str, Any], settings: RowSource) -> Example:
    """The example of a row, in the format that the settings name, or in its own.

    Raises:
        MalformedRow, UnusableRow: as `to_example`.
    """
    format = sniff(row, settings.columns) if settings.format == "auto" else settings.format
    return to_example(row, format, settings.columns)


def hub_rows(settings: HubData) -> Iterator[tuple[str, dict[str, Any]]]:
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
