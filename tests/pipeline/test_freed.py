"""What a unit has computed leaves memory before the next one begins in the same process."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from morlaif.units.execute import build_here

MB = 2**18  # float32 numbers


def resident() -> int:
    """MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library")
def test_pieces_that_were_freed_go_back_to_the_system():
    kept = []

    def build(job):
        torch.zeros(16 * MB)  # freed at once: from here on glibc takes pieces of that size from its heap
        pieces = [torch.ones(MB if i % 2 else MB // 64) for i in range(300)]
        kept.extend(pieces[::2])
        return resident()

    hardware = SimpleNamespace(threads=None, device="cpu", cuda_graphs=False, packing=False, compile=False)
    job = SimpleNamespace(hardware=hardware)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what tests before this one left free would be used anew, and not show
    before = resident()
    built = build_here(SimpleNamespace(stage=SimpleNamespace(loads_model=True, build=build)), job)
    assert built - before > 140 and resident() - before < 40
