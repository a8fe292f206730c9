"""Reading and writing peft's LoRA folders without peft's modules: plain tensors, checked, ready to be stacked."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from morlaif.errors import UserError
from morlaif.models.layers import layer_list
from morlaif.models.settings import LoRASettings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter with its head."""

    layers: dict[str, tuple[Tensor, Tensor]]  # layer name: down (r, in), up (out, r) with alpha/r multiplied in
    head: Tensor  # (1, H)


def read_adapter(folder: Path, principle: str) -> Adapter:
    """The adapter in the peft folder `folder`.

    Raises `UserError`, naming `principle`, where it is missing or of a form that cannot be stacked.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"preference model '{principle}': {folder / name} is missing")
    config = json.loads((folder / CONFIG).read_text())
    _check_plain(config, principle)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise UserError(f"preference model '{principle}': {folder / WEIGHTS} is damaged: {error}") from None
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    head: Tensor | None = None
    for key, value in weights.items():
        name = key.removeprefix(_PREFIX)
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            up = weights.get(key.replace(".lora_A.", ".lora_B."))
            if up is None:
                raise UserError(f"preference model '{principle}': adapter of '{layer}' has no lora_B")
            rank = value.shape[0]
            scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
            layers[layer] = (value, up * scale)
        elif name == "score.weight":
            head = value
        elif not name.endswith(".lora_B.weight"):
            raise UserError(f"preference model '{principle}': '{key}' belongs to no plain LoRA with a score head")
    if head is None:
        raise UserError(f"preference model '{principle}': {folder / WEIGHTS} holds no score head (task SEQ_CLS)")
    return Adapter(layers, head)


def _check_plain(config: dict[str, Any], principle: str) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"preference model '{principle}': peft type {kind} cannot be stacked, only LORA")
    for key, plain in (("use_dora", False), ("bias", "none"), ("alpha_pattern", {}), ("layer_replication", None)):
        if (config.get(key) or plain) != plain:
            raise UserError(f"preference model '{principle}': {key}={config[key]} cannot be stacked; use plain LoRA")


def adapter_hash(adapter: Adapter) -> str:
    """Hash of the low-rank updates without the head: the same for the views that share one adapter."""
    digest = hashlib.sha256()
    for name, parts in sorted(adapter.layers.items()):
        for part in parts:
            digest.update(name.encode() + part.contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_adapter(
    folder: Path, adapter: Adapter, settings: LoRASettings, model: PreTrainedModel, base: str, revision: str | None
) -> None:
    """Leave `adapter` (its `up` without the scale alpha / r) in `folder` as peft would."""
    names = list(adapter.layers)
    some = model.get_submodule(names[0])
    pattern, layers = layer_list(model)
    used = sorted({int(name.removeprefix(pattern + ".").split(".")[0]) for name in names if name.startswith(pattern)})
    part = {"layers_to_transform": used, "layers_pattern": [pattern.rpartition(".")[2]]}
    config = LoraConfig(
        task_type="SEQ_CLS",
        inference_mode=True,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in names}),
        fan_in_fan_out=isinstance(getattr(some, "base_layer", some), Conv1D),
        modules_to_save=["score"],
        base_model_name_or_path=base,
        revision=revision,
        **({} if used == list(range(len(layers))) else part),
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.target_modules = sorted(config.target_modules)  # peft keeps a set: the file would differ from run to run
    config.save_pretrained(folder)
    weights = {f"{_PREFIX}score.weight": adapter.head}
    for name, (down, up) in adapter.layers.items():
        weights[f"{_PREFIX}{name}.lora_A.weight"], weights[f"{_PREFIX}{name}.lora_B.weight"] = down, up
    plain = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    save_file(plain, folder / WEIGHTS, {"format": "pt"})
