"""Settings of a comparison; `conf/compare/*.yaml` holds every default."""

from __future__ import annotations

from morlaif.settings import Batch, Paths, Settings


class CompareSettings(Settings):
    runs: Paths | None  # names or globs of run folders
    prompts: Batch | None  # on which two policies are compared; null: all that both answered
    spend: bool  # whether a judge that costs money may be asked
