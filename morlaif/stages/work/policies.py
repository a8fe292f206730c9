"""What a method leaves: the policy that it has trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.models.load import point_to_adapter, save_adapter, save_policy
from morlaif.rl.engine import Engine
from morlaif.steer.conditioning import Steering


def leave_policy(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    export: Literal["merged", "adapter", "both"],
    sft: Path,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
    steering: Steering | None = None,
) -> None:
    """Write the policy of `engine` into `folder`, with the learnt `weights` instead of its own where they are given.

    Args:
        sft: the artifact of the model that an adapter sits on.
        steering: how the policy takes weights; it is left at its arm's own, with what it takes to have it at others.
    """
    models, own = engine.models, None
    if weights is not None:
        own = engine.weights()
        engine.load_weights(weights)
    if ranks.is_first():
        folder.mkdir(parents=True, exist_ok=True)
    if steering is not None:
        ranks.on_first(lambda: steering.write(folder))
    if models.parts is not None and steering is not None:
        ranks.on_first(partial(models.parts.save, folder))
    with nullcontext() if models.parts is None or steering is None else models.parts.at(steering.own), models.plain():
        if export in ("adapter", "both"):
            with sharded.gathered(models.groups()["policy"]):
                ranks.on_first(lambda: save_adapter(cast(PeftModel, models.policy), tokenizer, folder))
        if export == "adapter":
            ranks.on_first(lambda: point_to_adapter(folder, sft))
        else:
            state = sharded.state_dict(models.model, models.model.dtype)
            ranks.on_first(lambda: save_policy(models.model, tokenizer, folder, state))
    if own is not None:
        engine.load_weights(own)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, such as the rows of a curve."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
