"""Whether a finished folder of the store is as it was written: what its manifest says of its files, against them.

The manifest has the size, SHA-256 and time of change of each file. A file whose size and time are the manifest's is
taken as it is; one with another time (edited, copied) is read and hashed, and if its content is right its time is set
back, so that it is read once. So a look costs a `stat` for each file, and what it cannot see is a file of the right
size whose content changed under an unchanged time: a failing disk. `thorough` reads everything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from morlaif.errors import Damaged, of_system
from morlaif.files import decode, parse_json
from morlaif.units.unit import hash_json

MANIFEST = "manifest.json"
# Of a path that is not what it should be; any other error says nothing about the artifact.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_CHECK = "check"  # a hash of the rest of the manifest


def write_manifest(out: Path, about: Mapping[str, Any]) -> None:
    """`about` and what the files below `out` are: to be called last, since a folder with a manifest is finished."""
    manifest = json.loads(json.dumps({**about, **_facts(out)}))
    with (out / MANIFEST).open("w") as stream:
        json.dump(manifest | {_CHECK: hash_json(manifest)}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _facts(out: Path) -> dict[str, dict[str, Any]]:
    """What a manifest says of the files below `out`: `files_written` (bytes), `sha256`, `modified` (nanoseconds)."""
    files = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}
    files.pop(MANIFEST, None)
    return {
        "files_written": {name: path.stat().st_size for name, path in files.items()},
        "sha256": {name: _hash(path) for name, path in files.items()},
        "modified": {name: path.stat().st_mtime_ns for name, path in files.items()},
    }


def damage(folder: Path, thorough: bool = False) -> str | None:
    """What is wrong with a folder that should be a finished unit, or None.

    Raises:
        UserError, MachineError: it cannot be looked at.
    """
    try:
        manifest = read_manifest(folder)
    except Damaged as error:
        return str(error)
    return _wrong_unit(folder, manifest) or _wrong_files(folder, manifest, thorough)


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    Raises:
        Damaged: it is not there or not what was written. UserError, MachineError: it cannot be looked at.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise Damaged(f"it has no {MANIFEST}" if folder.is_dir() else "it is no folder") from None
        raise of_system(error, str(folder / MANIFEST)) from None
    text = decode(raw, MANIFEST, "what a finished unit is", failure=Damaged)
    return parse_json(text, MANIFEST, "what a finished unit is", of=dict, failure=Damaged)


def _wrong_unit(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    digest, stage = manifest.get("digest"), manifest.get("stage")
    if digest != folder.name or stage != folder.parent.name:
        return f"its {MANIFEST} is that of {stage}/{digest}"
    if not isinstance(manifest.get("files_written"), dict) or not isinstance(manifest.get("summary"), dict):
        return f"its {MANIFEST} lists no files and numbers"
    if not isinstance(manifest.get("seconds"), int | float):
        return f"its {MANIFEST} has no seconds"
    if _CHECK in manifest:  # older ones lack it
        rest = {name: value for name, value in manifest.items() if name != _CHECK}
        if hash_json(rest) != manifest[_CHECK]:
            return f"the content of its {MANIFEST} is not what was written"
    return None


def _wrong_files(folder: Path, manifest: Mapping[str, Any], thorough: bool) -> str | None:
    hashes, times = manifest.get("sha256") or {}, manifest.get("modified") or {}
    for name, size in manifest["files_written"].items():
        path = folder / name
        try:
            found = path.stat()
            if found.st_size != size:
                return f"{name} has {found.st_size:,} bytes of {size:,}"
            same = found.st_mtime_ns == times.get(name)
            if name in hashes and (thorough or not same):
                if _hash(path) != hashes[name]:
                    return f"the content of {name} is not what was written"
                with contextlib.suppress(OSError):  # not ours, or read-only: it will be read again
                    if not same:
                        os.utime(path, ns=(found.st_atime_ns, times[name]))
        except OSError as error:
            if error.errno in _NOT_THERE:
                return f"{name} is missing"
            raise of_system(error, str(path)) from None
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
