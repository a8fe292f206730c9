"""Scoring dialogues of 128 tokens under twelve principles: stacked adapters against peft's `set_adapter`, in turn.

    python benchmarks/pm_scoring.py            both shapes
    python benchmarks/pm_scoring.py gpt2 --rounds 2 --rows 16      what a CPU can bear

The other side is peft as one would write it: twelve adapters on one base, one made active at a time, each scoring all
rows, with a head per adapter; it gets the better of two batch sizes (all 64 rows, or as many tokens at once as the bank
takes). Both sides end in the same scores, which is checked.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pm_common import SHAPES, in_parts, interleaved, random_adapter, ratio, save_base

from morlaif.models.adapters import Adapter
from morlaif.models.layers import layer_list, top_layers
from morlaif.models.load import load_tokenizer
from morlaif.preference.lora import forward_tokens
from morlaif.preference.model import PaddedBatch, load_classifier
from morlaif.preference.scorers import AdapterScorer

PRINCIPLES, TOKENS, RANK = 12, 128, 8


def main(shapes: list[str], repeats: int, rows: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {device}, {threads} threads, {rows} × {TOKENS} tokens, {repeats} rounds")
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            save_base(shape, Path(folder))
            compare(shape, Path(folder), device, repeats, rows)


@torch.no_grad()
def compare(shape: str, base: Path, device: torch.device, repeats: int, count: int) -> None:
    tokenizer = load_tokenizer(base)
    load = lambda: load_classifier(base, tokenizer, device=device)  # noqa: E731
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 250, (count, TOKENS), generator=generator).to(device)
    full = torch.full((count,), TOKENS, device=device)
    batch = PaddedBatch(ids, torch.full_like(full, TOKENS // 2), full)
    model = load()
    tokens = forward_tokens(model)
    names = [str(k) for k in range(PRINCIPLES)]
    adapters = [random_adapter(model, RANK, k) for k in range(PRINCIPLES)]
    pattern, layers = layer_list(model)
    top = [f"{pattern}.{i}" for i in top_layers(model, 0.25)]
    upper = [random_adapter(model, RANK, k, top) for k in range(PRINCIPLES)]
    one = [Adapter(dict(adapters[0].layers), adapter.head) for adapter in adapters]
    switched = with_peft(load(), adapters)
    scorers = {
        kind: AdapterScorer(names, load(), [lambda a=a: a for a in given], "last", tokens)
        for kind, given in (("lora", adapters), ("trunk", upper), ("heads", one))
    }

    def bank(kind: str, batch: PaddedBatch = batch) -> torch.Tensor:
        return in_parts(scorers[kind].score, batch, max(1, tokens // TOKENS))

    def switching(rows: int, batch: PaddedBatch = batch) -> torch.Tensor:
        columns = []
        for name in names:
            switched.set_adapter(name)
            columns.append(in_parts(lambda part: switched(input_ids=part.ids).logits, batch, rows))
        return torch.cat(columns, dim=1)

    one_row = PaddedBatch(*(field[:1] for field in batch))
    torch.testing.assert_close(bank("lora", one_row), switching(1, one_row), atol=1e-4, rtol=1e-4)
    for kind in scorers:  # warm
        bank(kind, one_row)
    part = max(1, tokens // TOKENS)
    sides = {"switching, all rows": lambda: switching(count)}
    if part < count:
        sides["switching, parts"] = lambda: switching(part)
    seconds = interleaved(sides | {kind: partial(bank, kind) for kind in scorers}, repeats)
    slow = min(sides, key=lambda side: statistics.median(seconds[side]))
    print(f"\n{shape}: {len(layers)} layers, the trunk's top {len(top)}; against {slow}")
    for side, values in seconds.items():
        print(f"  {side:<22} {statistics.median(values) * 1e3:9.1f} ms   {ratio(seconds, slow, side):6.2f} x")


def with_peft(model: torch.nn.Module, adapters: list[Adapter]) -> PeftModel:
    config = LoraConfig(
        task_type="SEQ_CLS", r=RANK, lora_alpha=RANK, lora_dropout=0.0, modules_to_save=["score"],
        target_modules=sorted({name.rpartition(".")[2] for name in adapters[0].layers}),
        fan_in_fan_out=model.config.model_type == "gpt2",
    )  # fmt: skip
    made = get_peft_model(model, config, adapter_name="0")
    for k in range(1, len(adapters)):
        made.add_adapter(str(k), config)
    for k, adapter in enumerate(adapters):
        for name, (down, up) in adapter.layers.items():
            layer = model.get_submodule(name)
            layer.lora_A[str(k)].weight.copy_(down)
            layer.lora_B[str(k)].weight.copy_(up)
        model.score.modules_to_save[str(k)].weight.copy_(adapter.head)
    return made.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=64)
    given = parser.parse_args()
    main(given.shapes, given.rounds, given.rows)
