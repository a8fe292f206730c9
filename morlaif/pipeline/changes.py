"""A config under overrides, without composing it anew: for trying what would fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from morlaif.config import Config, validate
from morlaif.presets import preset

SIZES = ("batch_size", "micro_batch_size", "max_length", "gradient_checkpointing")


def apply(config: Config, changes: Sequence[str]) -> Config:
    """`config` under overrides `key=value` or `group=option`.

    Raises:
        UserError: the result does not validate.
    """
    tree = config.model_dump(mode="json")
    for change in changes:
        key, _, text = change.partition("=")
        *path, last = key.split(".")
        if not path:
            _set_group(tree, key, text)
            continue
        place = tree
        for part in path:
            place = place[part]
        place[last] = yaml.safe_load(text)
    return validate(tree)


def _set_group(tree: dict[str, Any], group: str, option: str) -> None:
    """An option of a group; sizes that an experiment has set stay as they are."""
    values = preset(group, option)
    tree[group] = values | {key: tree[group][key] for key in SIZES if key in values and key in tree[group]}
