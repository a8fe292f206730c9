"""The base of every settings class, and the words in which they say what is right. The YAML tree holds the defaults.

Every number is finite and has a bound that its meaning gives: a probability lies in [0, 1], and a count of 10^12 is a
slip of the finger. Every text can be written to a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from dataclasses import Field as DataclassField
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, get_args, get_origin
from unicodedata import category
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Outside = Literal["model", "dataset", "function", "file"]  # what a field's text may name that lies outside the run


class Settings(BaseModel):
    """Frozen, and closed: an unknown key is an error. Subclasses give no defaults; every default lives in `conf/`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False,
        defer_build=True,  # one schema for the whole tree, when a config is validated, not one more for each class
    )  # fmt: skip

    # Fields that say where, how fast or how often saved, and so cannot change a result: no digest covers them.
    outside_digest: ClassVar[frozenset[str]] = frozenset()
    # Values with which a field, added later, changes nothing: then no digest covers it.
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # Fields that name what is read from outside: its content is part of the digest of each unit that reads them.
    reads_outside: ClassVar[Mapping[str, Outside]] = {}

    def pinned(self, commit: Callable[[str, str | None], str | None]) -> dict[str, Any]:
        """Fields that name several models, anew, each hub id at the `commit` of its revision; see `Contents.pinned`."""
        return {}


# --- Numbers -----------------------------------------------------------------------------------------------------


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


NUMBER = BeforeValidator(_no_switch)  # last in each type: pydantic alone would read true as 1


def _real(*, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None) -> Any:
    return Field(allow_inf_nan=False, ge=ge, gt=gt, le=le, lt=lt)


Count = Annotated[int, Field(ge=1, le=10**9), NUMBER]
Whole = Annotated[int, Field(ge=0, le=10**9), NUMBER]
Batch = Annotated[int, Field(ge=1, le=10**6), NUMBER]  # rows, pairs or requests that are in memory at once
Tokens = Annotated[int, Field(ge=1, le=2**24), NUMBER]  # of one text
Size = Annotated[int, Field(ge=1, le=2**20), NUMBER]  # of one axis of a weight
Processes = Annotated[int, Field(ge=1, le=4096), NUMBER]
Port = Annotated[int, Field(ge=1, le=65535), NUMBER]
Seed = Annotated[int, Field(ge=0, lt=2**32), NUMBER]

Number = Annotated[float, _real(ge=-1e9, le=1e9), NUMBER]
Positive = Annotated[float, _real(gt=0, le=1e9), NUMBER]
NonNegative = Annotated[float, _real(ge=0, le=1e9), NUMBER]
Coefficient = Annotated[float, _real(ge=0, le=1e4), NUMBER]  # of a term of a loss, a penalty or a reward
Probability = Annotated[float, _real(ge=0, le=1), NUMBER]
Multiple = Annotated[float, _real(gt=1, le=1e4), NUMBER]  # of what is bounded by it
Share = Annotated[float, _real(gt=0, le=1), NUMBER]  # some of it, perhaps all
Part = Annotated[float, _real(gt=0, lt=1), NUMBER]  # some of it, never all
Decay = Annotated[float, _real(ge=0, lt=1), NUMBER]  # Adam's betas, dropout: one would forget nothing, or all
LearningRate = Annotated[float, _real(gt=0, le=1), NUMBER]
Temperature = Annotated[float, _real(gt=0, le=100), NUMBER]
GreedyTemperature = Annotated[float, _real(ge=0, le=100), NUMBER]  # 0 is greedy
LogOdds = Annotated[float, _real(ge=-100, le=100), NUMBER]
Seconds = Annotated[float, _real(gt=0, le=10**7), NUMBER]  # at most four months
Dollars = Annotated[float, _real(ge=0, le=1e9), NUMBER]


class Seeded(Settings):
    """A group whose units may draw from a seed of their own.

    No digest covers it: each unit reads the seed that results, so the same numbers have the same digests, whichever key
    gave them. The one default outside `conf/`: the same settings are those of judges within other groups, which have
    the seed of these.
    """

    seed: Seed | None = None  # null: the run's


# --- Texts and paths ---------------------------------------------------------------------------------------------


def _readable(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if "\0" in text:
        raise ValueError("holds a zero byte")
    _encoded(text)
    return text


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("is no valid UTF-8") from None


def _on_one_line(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    _encoded(text)
    if any(category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise ValueError("holds a line break or a control character; it should be one line of plain text")
    if text != text.strip():
        raise ValueError("has a space at its beginning or end")
    return text


def _usable_path(text: str) -> str:
    _on_one_line(text)
    if len(_encoded(text)) > 4000 or any(len(_encoded(part)) > 255 for part in text.split("/")):
        raise ValueError("is longer than a file system takes (255 bytes a name, 4,000 in all)")
    return text


def _folder(text: Any) -> str:
    if not isinstance(text, str | Path):
        raise ValueError("should be the path of a folder")
    try:
        return str(Path(_usable_path(str(text))).expanduser().absolute())  # a worker reads JSON, which has no Path
    except RuntimeError:  # ~nobody
        raise ValueError("names the home of a user that is not known here") from None


def _address(text: str) -> str:
    _on_one_line(text)
    try:
        parts = urlsplit(text)
        good = bool(parts.hostname) and parts.scheme in ("http", "https") and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        good = False
    if not good or " " in text:
        raise ValueError("no address; one looks like http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a name and password in an address would be written to files; use api_key_env")
    if parts.query or parts.fragment:
        raise ValueError("an address without '?' and '#'; paths of requests are put behind it")
    return text


Text = Annotated[str, AfterValidator(_readable)]
Line = Annotated[str, AfterValidator(_on_one_line)]
Label = Annotated[str, Field(max_length=200), AfterValidator(_on_one_line)]
Stop = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(lambda text: _encoded(text) and text)]
PathText = Annotated[str, AfterValidator(_usable_path)]  # a file, a folder or a hub id, as it was written
Folder = Annotated[Path, BeforeValidator(_folder)]  # absolute
Address = Annotated[str, AfterValidator(_address)]


# --- Containers --------------------------------------------------------------------------------------------------


def _distinct(items: Any) -> Any:
    seen: set[Hashable] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"names '{item}' twice")
        seen.add(item)
    return items


DISTINCT = AfterValidator(_distinct)  # of a list or tuple


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, each of its numbers finite.

    Raises:
        ValueError: where it is not, with the keys that lead there.
    """

    def walk(item: Any, where: str) -> None:
        at = f"{where}: " if where else ""
        if isinstance(item, Mapping):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise ValueError(f"{at}the key {key!r} should be a text; put it in quotes")
                walk(key, where)
                walk(inner, f"{where}.{key}" if where else key)
        elif isinstance(item, list | tuple):
            for place, inner in enumerate(item):
                walk(inner, f"{where}[{place}]")
        elif isinstance(item, str):
            try:
                _encoded(item)
            except ValueError as error:
                raise ValueError(f"{at}{error}") from None
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{at}{item} is no finite number")
        elif isinstance(item, int) and abs(item) >= 2**63:
            raise ValueError(f"{at}a number of {item.bit_length()} bits is too large")
        elif not (item is None or isinstance(item, bool | int | float)):
            raise ValueError(f"{at}a {type(item).__name__} has no place here")

    walk(value, "")
    return value


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[list[Line], Field(min_length=1), DISTINCT]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_listed), DISTINCT]  # one text is a list of one
Paths = Annotated[tuple[PathText, ...], BeforeValidator(_listed), DISTINCT]  # paths or globs, as they were written
Params = Annotated[dict[str, Any], BeforeValidator(_plain)]  # keyword parameters of a function, or parts of a request


# --- Unions ------------------------------------------------------------------------------------------------------


class Known(Protocol):
    """A registry, as far as a union asks it."""

    def names(self) -> tuple[str, ...]:
        """Ours, and those that installed packages offer."""

    def is_others(self, name: str) -> bool:
        """Whether `name` means code of others: a dotted path, or what an installed package offers."""


@dataclass(frozen=True)
class OneOf:
    """Metadata of an open union of settings, distinguished by the text at `field`.

    Each class but one has its names there, as a Literal. The one that has none is for code of others.

        JudgeSettings = Annotated[RulesSettings | OpenAISettings | PluginSettings, OneOf("source", JUDGES)]
    """

    field: str
    registry: Known

    OTHERS: ClassVar[str] = "(others)"  # the tag of the class for code of others, where pydantic names a place

    def members(self, union: Any) -> dict[str, type[BaseModel]]:
        """The classes of a union by their tags."""
        found: dict[str, type[BaseModel]] = {}
        for model in get_args(union):
            annotation = model.model_fields[self.field].annotation
            found |= dict.fromkeys(get_args(annotation) if get_origin(annotation) is Literal else [self.OTHERS], model)
        return found

    def tag(self, text: Any, ours: Mapping[str, type[BaseModel]]) -> Any:
        """The tag of the class for the text at `field`; the text itself where there is none.

        Null means code of others that is still to be named, as a preset has it.
        """
        others = text is None or (isinstance(text, str) and text not in ours and self.registry.is_others(text))
        return self.OTHERS if others else text

    def __get_pydantic_core_schema__(self, union: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        members = self.members(union)

        def chosen(value: Any) -> Any:
            if isinstance(value, Mapping):
                return self.tag(value[self.field], members) if self.field in value else None
            return self.tag(getattr(value, self.field), members) if isinstance(value, tuple(members.values())) else None

        return core_schema.tagged_union_schema(
            {tag: handler.generate_schema(model) for tag, model in members.items()}, chosen
        )


def identity(value: Any) -> Any:
    """The JSON value of settings (or of containers of them) as a digest sees it: without `outside_digest` fields, and
    without what has a neutral value: of settings as they declare it, of other dataclasses their default."""
    if isinstance(value, Settings):
        return {
            name: identity(getattr(value, name))
            for name in type(value).model_fields
            if name not in value.outside_digest and getattr(value, name) not in value.neutral.get(name, ())
            if not (name == "seed" and isinstance(value, Seeded))
        }
    if is_dataclass(value) and not isinstance(value, type):
        kept = (part.name for part in fields(value) if not _is_default(part, value))
        return {name: identity(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    return value


def _is_default(part: DataclassField[Any], value: Any) -> bool:
    made = part.default_factory
    return bool(getattr(value, part.name) == (part.default if made is MISSING else made()))


# Keys of a run that change no number: no page shows them, and runs that differ in them alone are compared as one.
# A run's name has none of them but `stages`, which says how far it goes.
OUTSIDE = frozenset(
    {"paths", "dry_run", "hardware", "tracking", "stages", "report", "compare", "human", "steer", "judge", "claims"}
)


def shown(settings: Settings, leave_out: Collection[str] = (), keep: Collection[str] = ()) -> dict[str, Any]:
    """The JSON value of settings as a page shows it: without the fields `leave_out`, and without those at a neutral
    value, but for the names `keep`, which pages had before neutral values left them."""
    return _without_neutral(settings, settings.model_dump(mode="json", exclude=set(leave_out)), keep)


def _without_neutral(value: Any, dumped: Any, keep: Collection[str]) -> Any:
    if isinstance(value, Settings):
        neutral = {**value.neutral, **({"seed": (None,)} if isinstance(value, Seeded) else {})}
        gone = {name for name, values in neutral.items() if name not in keep and getattr(value, name) in values}
        return {k: _without_neutral(getattr(value, k), v, keep) for k, v in dumped.items() if k not in gone}
    if isinstance(value, Mapping):
        return {key: _without_neutral(inner, dumped[key], keep) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_neutral(*pair, keep) for pair in zip(value, dumped, strict=True)]
    return dumped
