"""Pretrained models, where they are: in $MORLAIF_MODELS or beside the repository. Tests that want one skip without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MODELS = Path(os.environ.get("MORLAIF_MODELS", Path(__file__).resolve().parents[3] / "models"))


def folder_of(name: str) -> Path:
    if not (MODELS / name / "model.safetensors").is_file():
        pytest.skip(f"no {name} in {MODELS}; set MORLAIF_MODELS")
    return MODELS / name


def tokenizer_folders() -> list[Path]:
    return sorted(path.parent for path in MODELS.glob("*/tokenizer_config.json"))
