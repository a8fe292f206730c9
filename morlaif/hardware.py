"""Where and how fast a run runs. Nothing here may change a result, so no digest covers it."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from morlaif.settings import NonNegative, Positive, Processes, Seconds, Settings, Share, Whole


class ZeroSettings(Settings):
    """How DeepSpeed splits a model over the ranks of a unit (ZeRO, arXiv 1910.02054). One rank splits nothing."""

    stage: Literal[2, 3]
    offload_optimizer: bool
    offload_parameters: bool
    persistence_threshold: Whole
    gather_to_sample: NonNegative  # GB

    @model_validator(mode="after")
    def _check(self) -> ZeroSettings:
        if self.offload_parameters and self.stage != 3:
            raise ValueError(f"offload_parameters: stage {self.stage} keeps whole weights on each rank; use stage: 3")
        return self

    @property
    def most_gathered(self) -> float:
        """Bytes of a model that each rank gathers whole to sample from it."""
        return self.gather_to_sample * 1e9


class MachineSettings(Settings):
    """What the plan measures a run against; no run depends on it."""

    device_memory: Positive  # GB (10^9 bytes) of one device
    host_memory: Positive  # GB of one node
    tflops: Positive  # 10^12 operations a second of one device at its best
    bandwidth: Positive  # GB a second between a device and its memory
    link: Positive  # GB a second between devices
    mfu: Share  # the share of them that training reaches


class TimeoutSettings(Settings):
    start: Seconds  # seconds for the ranks to find one another
    collective: Seconds  # seconds that a rank waits for the others in one exchange


class HardwareSettings(Settings):
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["float32", "bfloat16", "float16"]
    threads: Processes | None
    workers: Processes
    cuda_graphs: bool
    packing: bool
    compile: bool
    processes: Processes  # ranks of a unit on each node
    nodes: Processes
    zero: ZeroSettings
    machine: MachineSettings
    timeouts: TimeoutSettings

    @property
    def ranks(self) -> int:
        """Processes that build one unit together."""
        return self.processes * self.nodes

    @property
    def in_parts(self) -> bool:
        """Whether no rank has whole weights."""
        return self.ranks > 1 and self.zero.stage == 3

    @model_validator(mode="after")
    def _check(self) -> HardwareSettings:
        if self.ranks > 1 and self.device == "auto":
            raise ValueError("device: auto cannot be split over ranks; say cuda or cpu")
        for key in ("packing", "compile"):
            if getattr(self, key) and self.in_parts:
                raise ValueError(f"{key}: not with weights in parts on several ranks; use {key}=false, or zero.stage=2")
        if self.ranks > 1 and self.dtype == "float16":
            raise ValueError("dtype: float16 is not offered over several ranks; use bfloat16 or float32")
        return self
