"""Settings of the stage `data`: where prompts, demonstrations and human preferences come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import model_validator

from morlaif.errors import UserError
from morlaif.params import checked, wanted
from morlaif.registry import Registry
from morlaif.settings import Batch, Count, Line, OneOf, Outside, Params, Part, PathText, Seeded, Settings

Format = Literal["auto", "dialogues", "pairs", "messages", "prompts", "scored", "summaries"]


class ToyData(Seeded):
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


class RowsData(Seeded):
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
    """A file of rows, or several; see `morlaif.data.files`."""

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
    path: PathText | None  # a local file, folder or pattern to read instead of the hub


class PluginData(RowsData):
    """Rows from a package of the user's: a function `(path, **params)` that gives them, each a mapping of columns."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"path"})  # the file's content counts
    reads_outside: ClassVar[Mapping[str, Outside]] = {"source": "function"}

    source: Line | None  # dotted path, or the name of an entry point; must be given
    path: PathText | None  # a file that the function reads, if it reads one
    params: Params

    def found(self, file: Path | None) -> Callable[[], Iterable[Mapping[str, Any]]]:
        """What gives the rows; imports the function.

        Raises:
            UserError: there is none, it cannot be imported, or it has other parameters.
        """
        if self.source is None:
            raise UserError("data.source: give the dotted path of a function that gives rows, such as my_package.rows")
        function = FORMATS.find(self.source)
        known = wanted(function, [] if file is None else ["path"])
        if "path" in known and "path" not in self.params:
            raise UserError(f"data.path: null; '{self.source}' reads a file, as in data.path=my.file")
        if file is not None and "path" not in wanted(function):
            raise UserError(f"data.path: '{self.source}' reads no file: it has no parameter 'path'")
        params = checked(self.params, known, key="data.params", path=self.source, name=self.source)
        return partial(function, **params, **({} if file is None else {"path": file}))


FORMATS: Registry[Callable[..., Any]] = Registry(
    kind="data_format",
    key="data.source",
    home="morlaif.data.load",
    known={
        "toy": "morlaif.toy.world.make_world",
        "jsonl": "morlaif.data.files.read_rows",
        "hub": "morlaif.data.load.hub_rows",
    },
)
DataSettings = Annotated[ToyData | JsonlData | HubData | PluginData, OneOf("source", FORMATS)]
