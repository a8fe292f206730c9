"""How large a model is, from its config.json alone: no torch, no weights, no hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from morlaif.errors import UserError
from morlaif.files import read_json
from morlaif.models.settings import ModelSettings
from morlaif.models.sizes import LLAMA_LIKE, size_problems


@dataclass(frozen=True)
class Dimensions:
    """A decoder-only transformer in numbers."""

    kind: str  # its model_type
    vocabulary: int
    width: int  # of the residual stream
    layers: int
    heads: int
    keys: int  # width of the keys of one layer: key-value heads × their width
    queries: int  # the same of the queries
    inner: int  # width of the feed-forward layer
    parameters: int  # tied ones once
    linears: tuple[tuple[int, int], ...]  # (in, out) of the linear layers of one block, which LoRA's all-linear adapts
    largest: int  # parameters of the largest single layer, which ZeRO-3 must gather whole

    @property
    def block(self) -> int:
        """Parameters of one block's linear layers."""
        return sum(a * b for a, b in self.linears)

    def lora(self, rank: int) -> int:
        """Parameters of an adapter of `rank` on all linear layers."""
        return self.layers * rank * sum(a + b for a, b in self.linears)

    def kv_bytes(self, element: int) -> int:
        """Key-value cache of one token."""
        return 2 * self.layers * self.keys * element


def of_config(config: Mapping[str, Any]) -> Dimensions | None:
    """The shape that a config.json means; None for an architecture that is not counted here, or numbers that make none
    (the model's own check tells)."""
    kind = config.get("model_type", "")
    if any(size_problems(config)):
        return None
    if kind == "gpt2":
        return _gpt2(config)
    return _llama(kind, config) if kind in LLAMA_LIKE else None


def _gpt2(config: Mapping[str, Any]) -> Dimensions:
    width, layers, vocabulary = config["n_embd"], config["n_layer"], config["vocab_size"]
    inner = config.get("n_inner") or 4 * width
    linears = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    block = sum(a * b + b for a, b in linears) + 4 * width  # two layer norms with bias
    embeddings = vocabulary * width + config["n_positions"] * width
    return Dimensions(
        kind="gpt2", vocabulary=vocabulary, width=width, layers=layers, heads=config["n_head"], keys=width,
        queries=width, inner=inner, parameters=embeddings + layers * block + 2 * width, linears=linears,
        largest=max(vocabulary * width, width * inner),
    )  # fmt: skip


def _llama(kind: str, config: Mapping[str, Any]) -> Dimensions:
    width, layers, vocabulary = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    heads, inner = config["num_attention_heads"], config["intermediate_size"]
    head = config.get("head_dim") or width // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    linears = (
        (width, queries), (width, keys), (width, keys), (queries, width),
        (width, inner), (width, inner), (inner, width),
    )  # fmt: skip
    norms = (4 if kind == "gemma2" else 2) * width + (2 * head if kind == "qwen3" else 0)
    biases = queries + 2 * keys if kind == "qwen2" or config.get("attention_bias") else 0
    biases += width if config.get("attention_bias") else 0
    biases += 2 * inner + width if config.get("mlp_bias") else 0
    tied = config.get("tie_word_embeddings", kind.startswith("gemma"))
    embeddings = vocabulary * width * (1 if tied else 2)
    block = sum(a * b for a, b in linears) + norms + biases
    return Dimensions(
        kind=kind, vocabulary=vocabulary, width=width, layers=layers, heads=heads, keys=keys, queries=queries,
        inner=inner, parameters=embeddings + layers * block + width, linears=linears,
        largest=max(vocabulary * width, width * inner),
    )  # fmt: skip


def of_model(model: ModelSettings) -> Dimensions | None:
    """The shape of the run's base; a model made from nothing may get a smaller vocabulary than this."""
    if (scratch := model.scratch) is None:
        return None if model.path is None else of_path(model.path, model.revision)
    return of_config({
        "model_type": "llama", "vocab_size": scratch.vocab_size, "hidden_size": scratch.hidden_size,
        "intermediate_size": scratch.intermediate_size, "num_hidden_layers": scratch.layers,
        "num_attention_heads": scratch.heads, "tie_word_embeddings": scratch.tie_embeddings,
    })  # fmt: skip


def of_path(path: str, revision: str | None = None) -> Dimensions | None:
    """The shape of the model in a folder, in the hub's cache, or well known; None where it cannot be told."""
    for file in (Path(path).expanduser() / "config.json", *_cached(path, revision)):
        if file.is_file():
            try:
                return of_config(read_json(file, of=dict))
            except (UserError, OSError):  # the model's own check tells
                return None
    known = yaml.safe_load(files("morlaif.memory").joinpath("dimensions.yaml").read_text())
    return of_config(known[path]) if path in known else None


def _cached(hub: str, revision: str | None) -> list[Path]:
    """Places of a hub model's config.json on this machine, as huggingface_hub lays them out."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{hub.replace('/', '--')}"
    named = folder / "refs" / (revision or "main")
    commit = named.read_text().strip() if named.is_file() else revision
    return [folder / "snapshots" / commit / "config.json"] if commit else []
