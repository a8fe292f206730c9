"""What a config leaves to be settled by what lies outside of it, before a plan is made: `sft.method=auto`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from morlaif.config import Config
from morlaif.data.check import read_template
from morlaif.models.fingerprint import hub_commit
from morlaif.models.place import folder_of, looks_local, offline
from morlaif.models.settings import AutoSFT, ModelSettings, NoSFT, SFTSettings

BASE = r"[-_](base|pt|pretrained)$"  # names of base models, whose makers may leave them a chat template too
TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")  # files of a model that may hold one


def settled(config: Config, tell: Callable[[str], None] = lambda line: None) -> Config:
    """`config` with all settled. `tell` hears what was decided, a line each."""
    sft = settled_sft(config)
    if isinstance(config.sft, AutoSFT) and (tuned := _tuned(config.model)) is not None:
        why = "has a chat template of its own" if tuned else "is a base model"
        other = "sft=lora trains it first" if tuned else "sft=none leaves it as it is"
        tell(f"sft=auto is {sft.method}: {config.model.name} {why}; {other}")
    return config if sft is config.sft else config.model_copy(update={"sft": sft})


def settled_sft(config: Config) -> SFTSettings:
    given = config.sft
    if not isinstance(given, AutoSFT):
        return given
    return NoSFT(method="none") if _tuned(config.model) else given.lora_sft()


def _tuned(model: ModelSettings) -> bool | None:
    """Whether a model is tuned to a dialogue: it has a chat template, and is not called a base model. None: nobody
    knows, since the model is not to be found, which another check reports."""
    if model.path is None:
        return None
    if re.search(BASE, model.path.rstrip("/").lower()):
        return False
    folder = folder_of(model.path, model.revision) or _fetched(model.path, model.revision)
    return None if folder is None else read_template(folder) is not None


@cache
def _fetched(path: str, revision: str | None) -> Path | None:
    """The hub's cache with the small files that may hold a template; None: the hub has none of them, or is silent.
    A tokenizer's settings are there in any case, so a base model is known too."""
    if looks_local(path) or offline() or (commit := hub_commit(path, revision).id) is None:
        return None
    from huggingface_hub import hf_hub_download

    folder = None
    for name in TEMPLATES:
        try:
            folder = Path(hf_hub_download(path, name, revision=commit)).parent
        except Exception:  # no such file, or no answer: the check of the model reports what keeps it from loading
            continue
    return folder
