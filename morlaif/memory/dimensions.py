"""How large a model is, from its config.json alone: no weights, no hub; of the usual architectures by arithmetic, of
all others that transformers knows by building them without numbers, in a process of its own, since that takes torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from morlaif.errors import UserError
from morlaif.files import read_json
from morlaif.models.settings import ModelSettings
from morlaif.models.sizes import LLAMA_LIKE, size_problems

PATIENCE = 300  # seconds to build a model without numbers; five on an idle processor


@dataclass(frozen=True)
class Dimensions:
    """A causal language model in numbers. Sums are over all layers unless noted."""

    kind: str  # its model_type
    vocabulary: int
    width: int  # of the residual stream
    layers: int
    parameters: int  # tied ones once
    largest: int  # parameters of the largest single layer, which ZeRO-3 must gather whole
    body: int  # parameters that a token passes through, embeddings and head left out; of experts, those it is sent to
    products: int  # of them, the weights of matrices
    queries: int  # width of the queries of one layer
    adapted: int  # inputs and outputs of the linear layers, which LoRA's all-linear adapts
    inputs: int  # their inputs alone
    linears: int  # how many they are
    widest: int  # outputs of the widest
    kept: float  # numbers that autograd keeps of one token in one layer, where all weights learn
    kept_single: float  # of them, in float32 whatever the model computes in
    frozen: float  # the same where adapters alone learn, without what the adapters themselves read
    frozen_single: float
    read: float  # what adapters read of one token in one layer and nobody else keeps
    whole: int  # numbers in the cache for each token, of layers that see all tokens
    windows: tuple[tuple[int, int], ...] = ()  # tokens that layers see, and their numbers for each
    state: int = 0  # numbers in the cache for each sequence, however long it is

    def lora(self, rank: int) -> int:
        """Parameters of an adapter of `rank` on all linear layers."""
        return rank * self.adapted

    def cached(self, tokens: int) -> int:
        """Numbers in the cache of one sequence."""
        return tokens * self.whole + sum(min(tokens, seen) * each for seen, each in self.windows) + self.state

    @property
    def block(self) -> int:
        """Weights of one layer's matrices that a token is multiplied by."""
        return self.products // self.layers


def of_config(config: Mapping[str, Any]) -> Dimensions | None:
    """The shape that a config.json means; None for numbers that make no model (its own check tells), or what
    transformers cannot make a causal language model of."""
    if any(size_problems(config)):
        return None
    kind = config.get("model_type", "")
    if kind == "gpt2":
        return _gpt2(config)
    if kind in (*LLAMA_LIKE, "gemma3_text") and (not kind.startswith("gemma") or config.get("head_dim")):
        return _llama(kind, config)
    return _built(json.dumps(config, sort_keys=True))


@cache
def _built(config: str) -> Dimensions | None:
    """By `morlaif.memory.built`: in this process if it has torch anyway."""
    if "torch" in sys.modules:
        from morlaif.memory.built import described

        found = described(config)
    else:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "morlaif.memory.built"], input=config, capture_output=True, text=True,
                timeout=PATIENCE, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return None
    if "error" in found:
        return None
    return Dimensions(**{**found, "windows": tuple((seen, each) for seen, each in found["windows"])})


def _gpt2(config: Mapping[str, Any]) -> Dimensions:
    width, layers, vocabulary = config["n_embd"], config["n_layer"], config["vocab_size"]
    inner = config.get("n_inner") or 4 * width
    linears = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    block = sum(a * b + b for a, b in linears) + 4 * width  # two layer norms with bias
    embeddings = vocabulary * width + config["n_positions"] * width
    return _decoder(
        config, "gpt2", linears, kept=12 * width + 4 * inner, norms=4 * width, inner=inner, queries=width, keys=width,
        vocabulary=vocabulary, width=width, layers=layers, parameters=embeddings + layers * block + 2 * width,
        body=layers * block, read=0,
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
    gemma3 = kind == "gemma3_text"
    norms = (4 if gemma3 or kind == "gemma2" else 2) * width + (2 * head if gemma3 or kind == "qwen3" else 0)
    biases = queries + 2 * keys if kind == "qwen2" or config.get("attention_bias") else 0
    biases += width if config.get("attention_bias") else 0
    biases += 2 * inner + width if config.get("mlp_bias") else 0
    tied = config.get("tie_word_embeddings", kind.startswith("gemma"))
    embeddings = vocabulary * width * (1 if tied else 2)
    block = sum(a * b for a, b in linears) + norms + biases
    if gemma3:  # norms of keys and queries, and behind each half of a layer too; each keeps what it read and made
        single = 8 * width + 2 * (queries + keys)
        kept = single + 2 * width + 2 * queries + 2 * keys + 4 * inner
        return _decoder(
            config, kind, linears, kept=kept, norms=single, learnt=single // 2, inner=inner, queries=queries,
            keys=keys, vocabulary=vocabulary, width=width, layers=layers,
            parameters=embeddings + layers * block + width, body=layers * block, read=2 * width + inner,
        )  # fmt: skip
    return _decoder(
        config, kind, linears, kept=6 * width + 2 * queries + 2 * keys + 4 * inner, norms=4 * width, learnt=2 * width,
        inner=inner, queries=queries, keys=keys, vocabulary=vocabulary, width=width, layers=layers,
        parameters=embeddings + layers * block + width, body=layers * block, read=2 * width + inner,
    )  # fmt: skip


def _decoder(
    config: Mapping[str, Any], kind: str, linears: tuple[tuple[int, int], ...], *, kept: int, norms: int, inner: int,
    learnt: int = 0,
    queries: int, keys: int, vocabulary: int, width: int, layers: int, parameters: int, body: int, read: int,
) -> Dimensions:  # fmt: skip
    """Layers that are all alike but for what they see.

    Args:
        kept: numbers that autograd keeps of a token in one; `norms` of them in float32, `learnt` for weights of norms.
        read: those that linear layers read and nobody else keeps.
    """
    inputs, outputs = (layers * sum(sizes[i] for sizes in linears) for i in (0, 1))
    seen = _windows(kind, config, layers)
    narrow = sum(one is not None for one in seen)
    window = next((one for one in seen if one is not None), 0)
    return Dimensions(
        kind=kind, vocabulary=vocabulary, width=width, layers=layers, parameters=parameters,
        largest=max(vocabulary * width, width * inner), body=body,
        products=layers * sum(a * b for a, b in linears), queries=queries, adapted=inputs + outputs,
        inputs=inputs, linears=layers * len(linears), widest=max(outputs for _, outputs in linears), kept=kept,
        kept_single=norms, frozen=kept - read - learnt,
        frozen_single=norms - learnt, read=read, whole=2 * keys * (layers - narrow),
        windows=((window, 2 * keys * narrow),) if narrow else (),
    )  # fmt: skip


def _windows(kind: str, config: Mapping[str, Any], layers: int) -> list[int | None]:
    """How many tokens each layer sees; None: all."""
    window = config.get("sliding_window", 4096 if kind in ("gemma2", "gemma3_text") else None)
    if kind == "gpt2" or not window:
        return [None] * layers
    if (listed := config.get("layer_types")) is not None:
        return [window if one == "sliding_attention" else None for one in listed]
    if kind == "gemma3_text":
        every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
        return [window if (i + 1) % every else None for i in range(layers)]
    if kind == "gemma2":
        return [window if i % 2 == 0 else None for i in range(layers)]
    if not kind.startswith("qwen"):  # as transformers' cache has it, whatever the model
        return [window] * layers
    first = config.get("max_window_layers", 28)  # of Qwen: the layers below it see all
    return [window if config.get("use_sliding_window") and i >= first else None for i in range(layers)]


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
    """Dimensions of the model in a folder, in the hub's cache, or well known; None where they are unknown.

    A new adapter's folder and the like have no config.json of their own, and no shape here.
    """
    config = config_of(path, revision)
    return None if config is None else of_config(config)


def config_of(path: str, revision: str | None = None) -> dict[str, Any] | None:
    """The config.json of a model in a folder, in the hub's cache, or well known."""
    for file in (Path(path).expanduser() / "config.json", *_cached(path, revision)):
        if file.is_file():
            try:
                found: dict[str, Any] = read_json(file, of=dict)
            except (UserError, OSError):  # the model's own check tells
                return None
            return found
    known: dict[str, dict[str, Any]] = yaml.safe_load(
        files("morlaif.memory").joinpath("dimensions.yaml").read_text("utf-8")
    )
    return known.get(path)


def why_unknown(path: str, revision: str | None = None) -> str:
    """Part of a sentence: why `of_path` finds nothing."""
    config = config_of(path, revision)
    if config is None:
        return f"{path} has no config.json on this machine"
    if any(size_problems(config)):
        return f"the config.json of {path} has numbers that make no model"
    return f"{path} is of the model_type '{config.get('model_type')}', of which transformers makes no causal model here"


def _cached(hub: str, revision: str | None) -> list[Path]:
    """Places of a hub model's config.json on this machine, as huggingface_hub lays them out."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{hub.replace('/', '--')}"
    named = folder / "refs" / (revision or "main")
    commit = named.read_text().strip() if named.is_file() else revision
    return [folder / "snapshots" / commit / "config.json"] if commit else []
