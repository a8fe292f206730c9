"""Policies that the run did not train: a folder in Hugging Face format, a finished unit's folder, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from morlaif.models.place import POINTER, Source, policy_place

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def parts_of(where: str) -> tuple[str, str | None]:
    """`owner/model@revision` -> its two parts; a folder may have an @ in its name."""
    if Path(where).expanduser().exists() or "@" not in where or where.startswith((".", "/", "~")):
        return where, None
    path, _, revision = where.rpartition("@")
    return path, revision


def load_outside(
    name: str, where: str, trust_remote_code: bool, *, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of `eval.policies.<name>=<where>`.

    Raises:
        UserError: there is none, or none that this run allows.
    """
    from morlaif.models.load import load_causal_lm, load_policy, load_tokenizer

    (path, revision), key = parts_of(where), f"eval.policies.{name}"
    folder = Path(path).expanduser()
    place = policy_place(folder) if folder.is_dir() else None
    if place == folder / POINTER:
        return load_policy(folder, dtype=dtype, device=device, key=key, trust_remote_code=trust_remote_code)
    source = Source(str(place or path), revision, trust_remote_code, key)
    tokenizer = load_tokenizer(source)
    return load_causal_lm(source, dtype=dtype, device=device, tokenizer=tokenizer), tokenizer
