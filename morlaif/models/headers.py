"""The headers of safetensors files: which tensors they hold, and whether the files are whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from morlaif.errors import UserError

_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_HEADER = 100_000_000  # bytes, the most that safetensors itself reads


def read_header(file: Path) -> dict[str, Any]:
    """`dtype`, `shape` and `data_offsets` of each tensor.

    Raises:
        UserError: the file is cut off, or none of safetensors, or no file at all.
    """
    if not file.is_file():
        raise UserError(f"{file}: is no regular file; copy the weights there")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise UserError(f"{file}: is a pointer of Git LFS, not the weights; fetch them: git lfs pull")
        if size < 8 or length > _HEADER:
            raise UserError(f"{file}: no safetensors ({size:,} bytes); copy it again")
        if size < 8 + length:
            raise UserError(f"{file}: cut off at {size:,} bytes, within its header; copy it again")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise UserError(f"{file}: its header is damaged; copy it again") from None
    if not isinstance(header, dict):
        raise UserError(f"{file}: its header is damaged; copy it again")
    header.pop("__metadata__", None)
    end = 0
    try:
        for name, facts in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = facts["data_offsets"]
            wide = _BYTES.get(facts["dtype"])
            bits = None if wide is None else wide * math.prod(facts["shape"])
            if begin != end or (bits is not None and stop - begin != bits) or min(facts["shape"], default=0) < 0:
                raise UserError(f"{file}: its header is damaged at the tensor {name!r}; copy it again")
            end = stop
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{file}: its header is damaged; copy it again") from None
    if size != 8 + length + end:
        cut = "cut off" if size < 8 + length + end else "longer than its header says"
        raise UserError(f"{file}: {cut}: {size:,} bytes of {8 + length + end:,}; copy it again")
    return header
