"""Settings of a comparison; `conf/compare/*.yaml` holds every default."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from morlaif.settings import Settings


def _list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class CompareSettings(Settings):
    runs: Annotated[tuple[str, ...] | None, BeforeValidator(_list)]  # names or globs of run folders
    prompts: Annotated[int, Field(gt=0)] | None  # on which two policies are compared; null: all that both answered
    spend: bool  # whether a judge that costs money may be asked
