"""Settings of the stage `data`: where prompts, demonstrations and human preferences come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from morlaif.settings import Batch, Count, Line, Outside, Part, PathText, Settings

Format = Literal["auto", "dialogues", "pairs", "messages", "prompts", "scored"]


class ToyData(Settings):
    """The embedded world (`morlaif.toy`)."""

    source: Literal["toy"]
    sft: Batch  # demonstrations
    train: Batch  # prompts with a human-labelled pair, to train on
    eval: Batch  # the same, held out


class Columns(Settings):
    """What the source calls its columns."""

    prompt: Line
    completion: Line
    chosen: Line
    rejected: Line
    messages: Line
    label: Line
    conversations: Line
    system: Line
    instruction: Line
    input: Line
    output: Line
    history: Line
    completions: Line
    score: Line


class RowsData(Settings):
    """What every source made of rows has in common."""

    format: Format  # of a row; "auto" sees it from the row's own columns
    columns: Columns
    bad_rows: Literal["error", "skip"]  # what to do about a row whose content is of no use
    deduplicate: bool
    limit: Count | None  # rows to use in all, drawn with the seed
    eval_size: Count | None  # rows held out …
    eval_fraction: Part | None  # … or their share

    @model_validator(mode="after")
    def _one_measure_of_eval(self) -> RowsData:
        if (self.eval_size is None) == (self.eval_fraction is None):
            raise ValueError("give eval_size or eval_fraction, and null for the other")
        if self.limit is not None and self.eval_size is not None and self.eval_size >= self.limit:
            raise ValueError(f"eval_size={self.eval_size} leaves nothing to train on of limit={self.limit}")
        return self


class JsonlData(RowsData):
    """A file of one JSON object a line, plain or gzipped."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"path"})  # the file's content counts

    source: Literal["jsonl"]
    path: PathText | None  # must be given; relative to the folder in which the command starts


class HubData(RowsData):
    """A dataset of the Hugging Face hub."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"path"})  # the file's content counts

    reads_outside: ClassVar[Mapping[str, Outside]] = {"id": "dataset"}  # by its commit

    source: Literal["hub"]
    id: PathText | None  # must be given unless `path` is
    subset: Line | None  # configuration of the dataset
    data_dir: PathText | None  # folder inside the dataset
    revision: Line | None
    split: Line
    path: PathText | None  # a local JSONL(.gz) file to read instead of the hub


DataSettings = Annotated[ToyData | JsonlData | HubData, Field(discriminator="source")]
