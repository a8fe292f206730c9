"""Policies that the run did not train: a folder in Hugging Face format, a finished unit's folder, or a hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morlaif.errors import UserError
from morlaif.feedback.sources.hf import identity

if TYPE_CHECKING:
    import torch


def identities(policies: Mapping[str, str]) -> dict[str, str]:
    """What tells each policy from another, by name: of a folder its files, of a hub id its revision.

    Raises:
        UserError: a folder that is not there, or holds no model.
    """
    return {name: _identity(name, where) for name, where in policies.items()}


def _identity(name: str, where: str) -> str:
    path, revision = _parts(where)
    folder = Path(path).expanduser()
    if folder.is_dir():
        for inner in (folder / "model", folder):
            if (inner / "config.json").is_file():
                return identity(str(inner), None)
        if (folder / "model.json").is_file():
            return identity(str(folder), None)
        raise UserError(
            f"eval.policies.{name}={where!r}: no model in this folder (no config.json, model/ or model.json)"
        )
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"eval.policies.{name}={where!r}: no such folder; give one, or a hub id such as owner/model")
    return identity(path, revision)


def load_outside(where: str, *, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from morlaif.models.load import load_causal_lm, load_policy, load_tokenizer

    path, revision = _parts(where)
    folder = Path(path).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        return load_policy(folder, dtype=dtype, device=device)
    path = str(folder) if folder.is_dir() else path
    tokenizer = load_tokenizer(path, revision=revision)
    return load_causal_lm(path, revision=revision, dtype=dtype, device=device, tokenizer=tokenizer), tokenizer


def _parts(where: str) -> tuple[str, str | None]:
    """`owner/model@revision` -> its two parts; a folder may have an @ in its name."""
    if Path(where).expanduser().exists() or "@" not in where:
        return where, None
    path, _, revision = where.rpartition("@")
    return path, revision
