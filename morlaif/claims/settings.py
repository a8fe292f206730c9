"""Settings of the group `claims`: which claims `sweep=claims` tests, and what it varies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from morlaif.settings import DISTINCT, NUMBER, Line, Lines, PathText, Settings


def _chosen(value: Any) -> Any:
    if value is None or value == "all":
        return value
    if not value or not isinstance(value, list | tuple | str):
        raise ValueError("names no claim. Give all, or names and files such as [morlaif_beats_single,my/claim.yaml]")
    return (value,) if isinstance(value, str) else tuple(value)


class ClaimsSettings(Settings):
    select: Annotated[
        Literal["all"] | Annotated[tuple[PathText, ...], DISTINCT] | None, BeforeValidator(_chosen)
    ]  # names or files; null: no claims, but the run of this config
    seeds: Annotated[int, Field(ge=1, le=1000), NUMBER]  # of each arm
    vary: Annotated[Lines, Field(min_length=1)]  # keys that a seed sets
    models: dict[Line, PathText]  # folders or hub ids for the models that claims name
    toy: tuple[Line, ...]  # overrides of all runs where the data are the toy world's
    alpha: Annotated[float, Field(gt=0, lt=0.5), NUMBER]  # of a wrong verdict in the whole table
