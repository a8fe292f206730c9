"""Large tensors of large models leave no memory behind; a user's own threshold stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# Layers as a training step has them: tensors that stay, and between them others of other sizes, which go.
STEP = """
import json, sys, torch
from pathlib import Path
from morlaif.models.resident import map_large_tensors

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

warm = [torch.ones(7_000_000) for _ in range(2)]  # as loading does: freed, it moves glibc's threshold
del warm
mapped = map_large_tensors(int(sys.argv[1]))
before, most, live = held(), 0, 0
for rows in (300, 280, 310, 260, 330):
    kept = []
    for layer in range(20):
        wide = torch.ones(rows, 4864)
        for _ in range(3):
            kept.append(torch.ones(rows, 4864) + 0)
            small = torch.ones(rows, 896)
            wide = torch.cat([small, wide], 1)[:, 7:].contiguous()
            kept.append(small[:, :64].contiguous())
        del wide
        most, live = max(most, held() - before), max(live, sum(x.nbytes for x in kept))
    kept.reverse()
    while kept:
        grad = torch.ones_like(kept.pop()) * 2
    most = max(most, held() - before)
print(json.dumps([mapped, most / live, (held() - before) / live]))
"""


def run(parameters: int, **environment: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", STEP, str(parameters)], env={**os.environ, **environment}, check=True,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_large_models_tensors_leave_nothing_behind():
    mapped, most, left = run(500_000_000)
    assert mapped and most < 1.4 and left < 0.4  # 1.8 and 1.8 as glibc has it
    assert run(1_000_000)[0] is False


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_users_own_threshold_stands():
    assert run(500_000_000, MALLOC_MMAP_THRESHOLD_="4194304")[0] is False
    assert run(500_000_000, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=4194304")[0] is False
