"""What tells one model from another: of a folder its content, wherever it lies; of a hub id its commit."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from morlaif.contents import Hashes
from morlaif.errors import UserError
from morlaif.models.check import folder_problems
from morlaif.models.place import POINTER, cached_commit, offline, policy_place, read_pointer

_WORDS_ALONE = {".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".html"}  # what no loader reads
_PATIENCE = 5.0  # seconds for the hub to answer


class Commit(NamedTuple):
    """The commit that a hub id's revision names now."""

    id: str | None  # None: neither the hub nor its cache could tell
    problem: str | None = None  # why the hub will not give it


def identity(path: str, revision: str | None, hashes: Hashes, *, trusted: bool = False, key: str = "model") -> str:
    """32 hex digits for a folder, `id@commit` for a hub id.

    Args:
        trusted: whether Python that comes with the model may run, which can make another model of the same files.
        key: of the config, for messages.

    Raises:
        UserError: a path that is plainly a folder is none, or a file in it cannot be read.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        made = _of_folder(folder, hashes)
    elif wrong := [line for line in folder_problems(key, path, revision=revision) if "HF_HUB_OFFLINE" not in line]:
        raise UserError(wrong[0])
    else:
        made = f"{path}@{hub_commit(path, revision).id or revision or 'main'}"
    return f"{made}+python" if trusted else made


def policy_identity(
    path: str, revision: str | None, hashes: Hashes, *, trusted: bool = False, key: str = "eval.policies"
) -> str:
    """The same for what may also be a finished unit's folder: what it points to and its adapter count.

    Raises:
        UserError: there is no model in the folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return identity(path, revision, hashes, trusted=trusted, key=key)
    place = policy_place(folder)
    if place is None:
        raise UserError(f"{key}={path!r}: no model in this folder (no config.json, model/ or {POINTER})")
    if place != folder / POINTER:
        return identity(str(place), None, hashes, trusted=trusted, key=key)
    origin = read_pointer(folder)
    made = identity(origin["path"], origin["revision"], hashes, trusted=trusted, key=key)
    return made if origin["adapter"] is None else f"{made}+{_of_folder(folder / origin['adapter'], hashes)}"


def hub_commit(id: str, revision: str | None, kind: str = "model") -> Commit:
    """The commit of a model (or `dataset`): what the hub says, or its cache where the hub cannot be asked."""
    if revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return Commit(revision)
    asked = _ask(id, revision, kind)
    return Commit(asked.id or cached_commit(id, revision, f"{kind}s"), asked.problem)


@cache
def _ask(id: str, revision: str | None, kind: str) -> Commit:
    if offline() or not _hub_answers():
        return Commit(None)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    api, login = HfApi(), "log in with an account that may read it (hf auth login)"
    try:
        found = api.repo_info(id, revision=revision, repo_type=kind, timeout=_PATIENCE)
        if found.gated:
            api.auth_check(id, repo_type=kind)
        return Commit(found.sha)
    except GatedRepoError:
        return Commit(None, f"gated: ask for access at https://huggingface.co/{id}, and {login}")
    except RevisionNotFoundError:
        return Commit(None, f"has no revision {revision!r}")
    except RepositoryNotFoundError:
        return Commit(None, f"no such {kind} on the hub; or it is private: {login}")
    except Exception:  # whatever keeps it from answering: the cache may know, and loading says more
        return Commit(None)


@cache
def _hub_answers() -> bool:
    """Whether the hub's host takes a connection: asked once, so that a machine without network waits once."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    place = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=_PATIENCE / 2):
            return True
    except OSError:
        return False


def _of_folder(folder: Path, hashes: Hashes) -> str:
    """Of the names and contents of all files that a loader may read: those in it, and templates and Python below."""
    below = (*folder.rglob("*.py"), *folder.rglob("*.jinja"))
    files = sorted(
        {file for file in (*folder.iterdir(), *below) if file.is_file() and _counts(file.relative_to(folder))}
    )
    hashed = zip((file.relative_to(folder).as_posix() for file in files), hashes.of(files), strict=True)
    return hashlib.sha256(json.dumps(list(hashed)).encode()).hexdigest()[:32]


def _counts(file: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in file.parts)
    return not hidden and file.suffix.lower() not in _WORDS_ALONE and not file.name.upper().startswith("LICENSE")
