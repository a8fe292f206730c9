"""What a process on a CPU holds of memory that its tensors have left.

glibc's heap keeps it, for sizes that tensors of a large model have, among others that stay; what comes next, of another
size or cut at another place, does not fit into the holes. A training step of half a billion weights held up to twice
what its tensors are. Memory that is mapped by itself goes back whole when its tensor does; its pages are made anew for
the next one, at some quarter of a step's time (benchmarks/real.md).
"""

from __future__ import annotations

import ctypes
import os

LARGE = 100e6  # weights; tensors of smaller models are small, and mapping each by itself would cost time
MAPPED = 2**20  # bytes; glibc's own threshold moves with what is freed, up to 32 times that
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
OWN = ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold")  # how a user says it


def map_large_tensors(parameters: int) -> bool:
    """Once a model of so many weights is there. True: tensors of MAPPED bytes or more, on the CPU, are mapped each by
    itself from here on.

    False where the model is small, where the environment has a threshold of its own, and where the C library is
    another than glibc.
    """
    own = OWN[0] in os.environ or OWN[1] in os.environ.get("GLIBC_TUNABLES", "")
    if parameters < LARGE or own:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt(M_TRIM_THRESHOLD, 64 * MAPPED)  # its default would give and take the heap's end all the time
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED))
