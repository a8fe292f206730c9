"""Settings of the stage `data`: where prompts, demonstrations and human preferences come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from morlaif.settings import Settings

Format = Literal["auto", "dialogues", "pairs", "messages", "prompts", "scored"]


class ToyData(Settings):
    """The embedded world (`morlaif.toy`)."""

    source: Literal["toy"]
    sft: PositiveInt  # demonstrations
    train: PositiveInt  # prompts with a human-labelled pair, to train on
    eval: PositiveInt  # the same, held out


class Columns(Settings):
    """What the source calls its columns."""

    prompt: str
    completion: str
    chosen: str
    rejected: str
    messages: str
    label: str
    conversations: str
    system: str
    instruction: str
    input: str
    output: str
    history: str
    completions: str
    score: str


class RowsData(Settings):
    """What every source made of rows has in common."""

    format: Format  # of a row; "auto" sees it from the row's own columns
    columns: Columns
    bad_rows: Literal["error", "skip"]  # what to do about a row whose content is of no use
    deduplicate: bool
    limit: PositiveInt | None  # rows to use in all, drawn with the seed
    eval_size: PositiveInt | None  # rows held out …
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] | None  # … or their share

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
    path: str | None  # must be given; relative to the folder in which the command starts


class HubData(RowsData):
    """A dataset of the Hugging Face hub."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"path"})  # the file's content counts

    source: Literal["hub"]
    id: str | None  # must be given unless `path` is
    subset: str | None  # configuration of the dataset
    data_dir: str | None  # folder inside the dataset
    revision: str | None
    split: str
    path: str | None  # a local JSONL(.gz) file to read instead of the hub


DataSettings = Annotated[ToyData | JsonlData | HubData, Field(discriminator="source")]
