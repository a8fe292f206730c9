"""Where models lie: folders, the hub's cache, finished units that point to a model elsewhere. Loads nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.errors import UserError
from morlaif.files import read_json

POINTER = "model.json"  # in a finished unit: names the model that it leaves as it is, or adapts


def allowing(key: str) -> str:
    """The override that lets the model at the config's `key` run Python of its own."""
    group, _, name = key.rpartition(".")
    if group == "eval.policies":
        return f"eval.trust_remote_code=[{name}]"
    return ("pm" if key.startswith("pm.") else group) + ".trust_remote_code=true"


def looks_local(path: str | Path) -> bool:
    """Whether a path is plainly meant to be a place on this machine: no hub is to be asked for it."""
    text = str(path)
    return isinstance(path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or Path(text).is_file()


def offline() -> bool:
    """Whether the environment forbids asking the hub."""
    settings = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value in ("1", "ON", "YES", "TRUE") for value in settings)


def folder_of(path: str, revision: str | None) -> Path | None:
    """Where a model's files are on this machine: the folder that is named, or the hub's cache; None: nowhere."""
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else cached_folder(path, revision)


def cached_folder(id: str, revision: str | None) -> Path | None:
    """Where this machine's cache has a hub model's files, as huggingface_hub lays them out."""
    if (commit := cached_commit(id, revision)) is None:
        return None
    folder = _cache() / f"models--{id.replace('/', '--')}" / "snapshots" / commit
    return folder if folder.is_dir() else None


def cached_commit(id: str, revision: str | None, kind: str = "models") -> str | None:
    """The commit that the cache knows a hub id's revision by."""
    revision = revision or "main"
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    ref = _cache() / f"{kind}--{id.replace('/', '--')}" / "refs" / revision
    return ref.read_text().strip() if ref.is_file() else None


def _cache() -> Path:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    found = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    return Path(found).expanduser()


def policy_place(folder: Path) -> Path | None:
    """Where the policy of `folder` lies: the folder of a model, or the file that points to one; None: nowhere."""
    for place in (folder, folder / "model"):
        if (place / "config.json").is_file():
            return place
    return folder / POINTER if (folder / POINTER).is_file() else None


def read_pointer(folder: Path) -> dict[str, Any]:
    """`path`, `revision` and `attention` of the model that the unit in `folder` points to, the folder of its adapter,
    and whether the model is the run's base, left `untouched`. Whatever else the file says counts for nothing.

    A base in the same store is looked for where it lay relative to this unit or to the one that holds it, should the
    store have moved.

    Raises:
        UserError: the file is not as it should be.
    """
    file = folder / POINTER
    own = {"revision": None, "attention": None, "adapter": None, "untouched": False}
    origin = own | read_json(file, "where a model lies", of=dict)
    for name in ("path", "revision", "attention", "adapter"):
        if not isinstance(origin.get(name), str if name == "path" else str | None):
            raise UserError(f"{file}: '{name}' is {origin.get(name)!r}; expected a text; build the unit again")
    if origin["attention"] not in (None, "sdpa", "eager", "flash_attention_2"):
        raise UserError(f"{file}: 'attention' is {origin['attention']!r}; expected sdpa, eager or flash_attention_2")
    if origin["adapter"] is not None and Path(origin["adapter"]).name != origin["adapter"]:
        raise UserError(f"{file}: 'adapter' is {origin['adapter']!r}; expected a folder beside the file")
    if origin["adapter"] and not Path(origin["path"]).exists():
        for store in folder.resolve().parents[1:4]:  # a unit may hold several policies, in folders of their own
            beside = store.joinpath(*Path(origin["path"]).parts[-3:])
            if beside.is_dir():
                origin["path"] = str(beside)
                break
    return origin


def absolute(path: str) -> str:
    """A folder's whole path; a hub id as it is."""
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else path


@dataclass(frozen=True)
class Source:
    """A model, and by what right it is loaded."""

    path: str  # a folder or a hub id
    revision: str | None = None  # of a hub id
    trust_remote_code: bool = False  # as this run's config says for `key`: no file can
    key: str = "model"  # of the config, where it names the model
    attention: str | None = None  # the implementation that is asked for
    own: bool = False  # this project wrote the folder

    @classmethod
    def of(cls, source: Source | str | Path, **more: Any) -> Source:
        return source if isinstance(source, Source) else cls(str(source), **more)

    @property
    def where(self) -> str:
        """Key and value, for messages."""
        at = f" at revision {self.revision!r}" if self.revision else ""
        return f"{self.key}={self.path!r}{at}"
