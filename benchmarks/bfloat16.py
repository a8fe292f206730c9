"""How long products of matrices take in bfloat16, as a multiple of float32, on this processor: `python benchmarks/bfloat16.py`.

Processors without instructions for it (AVX512_BF16, AMX; `bf16` on ARM) emulate it; the plan then advises against it with
`morlaif.devices.SLOWER`.
"""

from __future__ import annotations

import time

import torch

from morlaif.devices import processor_lacks_bfloat16


def seconds(dtype: torch.dtype, size: int = 1024, times: int = 3) -> float:
    """CPU seconds of one product."""
    a, b = (torch.randn(size, size, dtype=dtype) for _ in "ab")
    a @ b
    began = time.process_time()
    for _ in range(times):
        a @ b
    return (time.process_time() - began) / times


if __name__ == "__main__":
    single, half = seconds(torch.float32), seconds(torch.bfloat16)
    print(
        f"float32 {single:.3f} s, bfloat16 {half:.3f} s: {half / single:.1f} times; emulated: {processor_lacks_bfloat16()}"
    )
