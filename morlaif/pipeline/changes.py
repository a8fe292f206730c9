"""A config under overrides, without composing it anew: for trying what would fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from morlaif.config import Config, changed
from morlaif.presets import preset

SIZES = ("batch_size", "micro_batch_size", "max_length", "gradient_checkpointing")


def apply(config: Config, changes: Sequence[str]) -> Config:
    """`config` under overrides `key=value` or `group=option`.

    Raises:
        UserError: the result does not validate.
    """
    pairs = [change.split("=", 1) for change in changes]
    return changed(
        config, {key: yaml.safe_load(text) if "." in key else _group(config, key, text) for key, text in pairs}
    )


def _group(config: Config, group: str, option: str) -> dict[str, Any]:
    """An option of a group; sizes that an experiment has set stay as they are."""
    values, now = preset(group, option), getattr(config, group).model_dump(mode="json")
    return values | {key: now[key] for key in SIZES if key in values and key in now}
