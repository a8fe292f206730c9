"""Settings of the experiment tracker; `conf/tracking/*.yaml` holds every default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from morlaif.settings import DISTINCT, Label, Settings


class LocalTracking(Settings):
    """Rows in `metrics.jsonl` of the run folder, no account. The other trackers write them too."""

    kind: Literal["local"]


class WandbTracking(Settings):
    """Weights & Biases beside the local rows. The key comes from the environment (WANDB_API_KEY) or `wandb login`."""

    kind: Literal["wandb"]
    mode: Literal["online", "offline"]
    project: Label
    entity: Label | None
    group: Label | None
    job_type: Label
    tags: Annotated[tuple[Label, ...], DISTINCT]


TrackingSettings = Annotated[LocalTracking | WandbTracking, Field(discriminator="kind")]
