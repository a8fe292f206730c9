"""Where and how fast a run runs. Nothing here may change a result, so no digest covers it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from morlaif.settings import Settings


class HardwareSettings(Settings):
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["float32", "bfloat16", "float16"]
    threads: Annotated[int, Field(ge=1)] | None
    workers: Annotated[int, Field(ge=1)]
