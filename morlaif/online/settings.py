"""Settings of the methods that choose among samples; `conf/best_of_n`, … hold every default."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from morlaif.settings import NUMBER, Settings

Samples = Annotated[int, Field(ge=1, le=4096), NUMBER]  # of one prompt


class BestOfNSettings(Settings):
    """No training: the best of n responses of the SFT policy. How they are sampled is what the evaluation says."""

    n: Samples
