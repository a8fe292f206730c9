"""How long a linear layer takes in bfloat16, as a multiple of float32, on this processor.

    python benchmarks/bfloat16.py

Processors without instructions for it (AVX512_BF16, AMX; `bf16` on ARM) emulate it; the plan then advises against it,
with `morlaif.devices.SLOWER`.
"""

from __future__ import annotations

import time

import torch
from torch.nn.functional import linear

from morlaif.devices import processor_lacks_bfloat16


def seconds(dtype: torch.dtype, rows: int, size: int = 1024, times: int = 3) -> float:
    """CPU seconds of one layer."""
    a, b = torch.randn(rows, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    linear(a, b)
    began = time.process_time()
    for _ in range(times):
        linear(a, b)
    return (time.process_time() - began) / times


if __name__ == "__main__":
    print(f"emulated: {processor_lacks_bfloat16()}")
    for rows in (1, 16, 512):
        single, half = seconds(torch.float32, rows), seconds(torch.bfloat16, rows)
        print(f"{rows} rows: float32 {single:.5f} s, bfloat16 {half:.5f} s: {half / single:.1f} times as long")
