"""The key of a form, as `human=export` wrote it: which policy is behind which side of which item."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from morlaif.errors import UserError
from morlaif.files import read_json

WHAT = "the key that human=export wrote beside the form"
HINT = "put back the file that export wrote, or set it aside and export a form anew (answers belong to one key)"
Name = Annotated[str, Field(min_length=1, max_length=500)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _RatedPair(_Strict):
    first: Name
    second: Name
    identical: Annotated[int, Field(ge=0, le=10**9)]


class _Item(_Strict):
    kind: Literal["pair", "repeat", "check"]
    comparison: Name | None
    prompt_id: Name
    a: Name
    b: Name
    of: Name | None = None


class _Key(_Strict):
    run: Name
    form: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    comparisons: Annotated[dict[str, _RatedPair], Field(min_length=1)]
    items: Annotated[dict[str, _Item], Field(min_length=1)]


def read_key(path: Path) -> dict[str, Any]:
    """The key in `path`, whole and consistent.

    Raises:
        UserError: one line with what is wrong in it, and where.
    """
    value = read_json(path, WHAT, of=dict, finite=True)
    try:
        key = _Key.model_validate(value)
    except ValidationError as error:
        first, *more = error.errors()
        others = f" (and {len(more)} more)" if more else ""
        place = ".".join(map(str, first["loc"]))
        reason = "is missing" if first["type"] == "missing" else first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"{path}: {place}: {reason}{others}; {HINT}") from None
    for id_, item in key.items.items():
        if wrong := _wrong(key, item):
            raise UserError(f"{path}: items.{id_}: {wrong}; {HINT}")
    return value


def _wrong(key: _Key, item: _Item) -> str | None:
    if item.kind == "check":
        return None if {item.a, item.b} == {"on_topic", "off_topic"} else "a check has the sides on_topic and off_topic"
    compared = key.comparisons.get(item.comparison or "")
    if compared is None:
        return f"comparison {item.comparison!r} is not among {', '.join(key.comparisons)}"
    if {item.a, item.b} != {compared.first, compared.second}:
        return f"its sides are not {compared.first} and {compared.second}, which {item.comparison} compares"
    if item.kind == "repeat" and getattr(key.items.get(item.of or ""), "kind", None) != "pair":
        return f"it repeats {item.of!r}, which is no pair of the form"
    return None
