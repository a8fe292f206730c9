"""Where the models that a unit works with lie now, and what they may do: the run's config says so, no artifact does."""

from __future__ import annotations

from typing import ClassVar

from morlaif.models.settings import ModelSettings
from morlaif.preference.settings import PMSettings
from morlaif.settings import Settings


class Places(Settings):
    """Stands among what a unit reads, and in no digest: that covers what the models hold."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"model", "pm"})

    model: ModelSettings
    pm: PMSettings
