"""Large tensors of large models leave no memory behind; a user's own threshold stands."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from morlaif.models.resident import map_large_tensors

# Layers as a training step has them: tensors that stay, and between them others of other sizes, which go.
STEP = """
import json, os, sys, torch
from pathlib import Path
from morlaif.models.resident import map_large_tensors

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

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


def run(parameters: int) -> list[float]:
    command = [sys.executable, "-c", STEP, str(parameters)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=170)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_large_models_tensors_leave_nothing_behind():
    mapped, most, left = run(500_000_000)
    assert mapped and most < 1.4 and left < 0.4  # 1.8 and 1.8 as glibc has it


def test_a_small_models_tensors_stay_as_they_are():
    assert map_large_tensors(1_000_000) is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_MMAP_THRESHOLD_", "4194304"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=4194304")],
)
def test_a_users_own_threshold_stands(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert map_large_tensors(500_000_000) is False
