"""Settings of a rating by people; `conf/human/*.yaml` holds every default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from morlaif.settings import Settings


def _list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _absolute(path: Path) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # pathlib raises where a ~user does not exist


Listed = Annotated[tuple[str, ...] | None, BeforeValidator(_list)]


class HumanStudySettings(Settings):
    action: Literal["export", "import"] | None
    run: str | None  # name or folder of a finished run; null: the run that this command's config names
    folder: Annotated[Path, AfterValidator(_absolute)] | None  # null: <run>/human
    pairs: Listed  # comparisons such as policy_vs_sft; null: the run's policy against every other that it compared
    prompts: Annotated[int, Field(gt=0)]  # on which each comparison is rated
    repeats: Annotated[float, Field(ge=0, le=1)]  # pairs shown again with their sides swapped, as a share of all pairs
    checks: Annotated[float, Field(ge=0, le=1)]  # pairs whose answer is known, as a share of all pairs
    seed: Annotated[int, Field(ge=0)]
    question: Annotated[str, Field(min_length=1)]
    instructions: str  # paragraphs are parted by an empty line
    answers: Listed  # files or globs; null: all in <folder>/answers
    max_failed: Annotated[float, Field(ge=0, le=1)]  # a rater who fails more of the checks than this is left out
