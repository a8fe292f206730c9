"""A step of work on a GPU, recorded once and run again as one launch (a CUDA graph).

What a recorded step reads and writes has to stay where it is. Sampling is what needs it: a token step is a thousand
kernels of a few microseconds, and launching them one by one takes ten times as long as they do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

enabled = True  # `hardware.cuda_graphs`


def on(device: torch.device) -> bool:
    return device.type == "cuda"


def record(step: Callable[[], Tensor], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """The graph of `step`, which has run here before, and where each replay leaves its result. Nothing is computed.

    Raises:
        RuntimeError: the step waits for a number from the GPU, or does what else cannot be recorded.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        # threads of their own may allocate meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = step()
    except RuntimeError:
        torch.cuda.set_stream(stream)  # torch leaves its own in its place
        with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
            torch.zeros(1, device=device)  # ends the capture that the random generators still believe in
        raise
    return graph, result
