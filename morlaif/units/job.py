"""What a stage gets: the settings that its digest covers, its inputs, a place to write, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from morlaif.hardware import HardwareSettings


@dataclass(frozen=True)
class Job:
    """One unit of work, handed to `morlaif.stages.<stage>.build`."""

    stage: str  # "pm"
    name: str  # "pm/helpfulness"
    digest: str  # names the folder in the store
    config: Mapping[str, Any]  # the settings that the digest covers: a stage cannot read what would not change it
    inputs: Mapping[str, Path]  # finished folders of what it needs, by unit name
    out: Path  # empty; becomes the artifact
    keep: Path  # survives a kill of this unit: checkpoints
    ledger: Path  # paid verdicts, shared by all runs of the store
    seed: int  # from the run's seed and the unit's name
    hardware: HardwareSettings
    on_progress: Callable[[int, int | None, dict[str, float]], None]

    def progress(self, step: int, total: int | None, **metrics: float) -> None:
        """Report `step` of `total` (None: unknown) with the metrics of this step."""
        self.on_progress(step, total, metrics)

    @cached_property
    def device(self) -> torch.device:
        import torch

        choice = self.hardware.device
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if choice == "auto" else choice)

    @cached_property
    def dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.hardware.dtype)
