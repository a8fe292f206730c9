"""What the benchmarks of preference models share: two shapes of base, random adapters, interleaved timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from morlaif.models.adapters import Adapter
from morlaif.models.scratch import train_tokenizer
from morlaif.preference.lora import size, targets
from morlaif.preference.model import PaddedBatch, draw_head

WORDS = ("river", "stone", "cloud", "bread", "window", "garden", "letter", "train")
SHAPES = ("toy", "gpt2")


def save_base(shape: str, folder: Path, vocabulary: int | None = None) -> None:
    """Random weights: the toy model's shape, or GPT-2 small's (124 M parameters)."""
    tokenizer = train_tokenizer([" ".join(WORDS), "Human: Assistant:"], 300)
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    if shape == "toy":
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary or 2048, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=512, initializer_range=0.1, **ids,
            )
        )  # fmt: skip
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary or 50257, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_adapter(model: torch.nn.Module, rank: int, seed: int, among: list[str] | None = None) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name in targets(model, "all-linear", among):
        inputs, outputs = size(model.get_submodule(name))
        layers[name] = tuple(
            torch.randn(shape, generator=generator) * 0.02 for shape in ((rank, inputs), (outputs, rank))
        )
    return Adapter(layers, draw_head(model, generator))


def in_parts(score, batch: PaddedBatch, rows: int) -> torch.Tensor:
    parts = range(0, len(batch.ids), rows)
    return torch.cat([score(PaddedBatch(*(field[i : i + rows] for field in batch))) for i in parts])


def interleaved(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, one after another in each round; they come warmed up.

    On a CPU with one thread processor seconds, which other programs on the machine disturb less; else by the clock.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            began = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: Mapping[str, list[float]], base: str, other: str) -> float:
    """Median over the rounds of how many times as fast `other` is."""
    return statistics.median(a / b for a, b in zip(seconds[base], seconds[other], strict=True))
