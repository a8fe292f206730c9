"""Sampling three ways on one model: by a cache that grows, by recorded steps, and by transformers' `generate`.

    python benchmarks/gpu/sample.py <out folder> [--shape 0.5b] [--seconds 120]

As a rollout of PPO does it: prompts of one length, temperature 1, every row to the limit, bfloat16. First the weights
as they are, then with float32 LoRA adapters on every linear layer, under autocast, as PPO trains them, and with
log-probabilities. Seconds are the shorter of two rounds after a first one. `alike`: rows with the ids of the growing
cache. In bfloat16 attention over another length rounds otherwise, and from the first token that differs a row goes its
own way; `float32` compares ids where that hardly matters. Rows go to figures.jsonl.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import figures as measured  # noqa: E402
import made  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

from morlaif.memory.dimensions import of_path  # noqa: E402
from morlaif.models.generate import generate  # noqa: E402
from morlaif.models.load import load_causal_lm, load_tokenizer  # noqa: E402


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("out", type=Path)
    asked.add_argument("--shape", choices=list(made.SHAPES), default="0.5b")
    asked.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    asked.add_argument("--seconds", type=float, default=math.inf, help="after which no part is begun")
    arguments = asked.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    size = measured.SMALL if arguments.shape == "tiny" else measured.Size()
    found = measured.Figures(arguments.out / "figures.jsonl", arguments.shape, arguments.device)
    until = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        made.write_model(arguments.shape, model, arguments.device)
        Sampling(model, size, found, until).all()


class Sampling:
    def __init__(self, folder: Path, size: measured.Size, found: measured.Figures, until: float) -> None:
        self.folder, self.size, self.found, self.until = folder, size, found, until
        self.cuda = found.device == "cuda"
        self.tokenizer, self.shape = load_tokenizer(folder), of_path(str(folder))
        chance = torch.Generator().manual_seed(0)
        most = made.VOCABULARY.get(found.shape, made.QWEN) - 100
        self.prompts = torch.randint(100, most, (size.rollouts, size.prompt), generator=chance)
        if self.cuda:
            found.rate = measured.matrix_rate(size.square, found.device, torch.bfloat16)
            found.row("matrix product", size=size.square, tflops=round(found.rate / 1e12, 1))

    def all(self) -> None:
        model = self.loaded(torch.bfloat16)
        first = self.ours("growing cache", model, fixed=False)
        self.ours("recorded steps", model, fixed=True, beside=first)
        self.theirs("transformers", model)
        adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False))
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.data = weight.data.float() * 0.1
        base = adapted.base_model.model
        first = self.ours("growing cache, LoRA", base, fixed=False, autocast=True, logprobs=True)
        self.ours("recorded steps, LoRA", base, fixed=True, beside=first, autocast=True, logprobs=True)
        self.theirs("transformers, LoRA", base, autocast=True)
        del model, adapted, base
        measured.release()
        exact = self.loaded(torch.float32)
        first = self.ours("growing cache, float32", exact, fixed=False, rounds=1)
        self.ours("recorded steps, float32", exact, fixed=True, beside=first, rounds=1)
        del exact
        measured.release()
        self.theirs("transformers, static cache, compiled", self.loaded(torch.bfloat16), cache_implementation="static")

    def loaded(self, dtype: torch.dtype) -> Any:
        return load_causal_lm(
            self.folder, device=torch.device(self.found.device), dtype=dtype, tokenizer=self.tokenizer
        )

    def ours(
        self, what: str, model: Any, *, fixed: bool, beside: list[list[int]] | None = None, autocast: bool = False,
        logprobs: bool = False, rounds: int = 2,
    ) -> list[list[int]]:  # fmt: skip
        rows: list[list[int]] = []

        def run() -> None:
            rows[:] = generate(
                model, self.tokenizer, self.prompts.tolist(), max_new_tokens=self.size.new, temperature=1.0,
                batch_size=self.size.rollouts, generator=torch.Generator().manual_seed(0), fixed=fixed,
                logprobs=[] if logprobs else None,
            )  # fmt: skip

        def alike() -> dict[str, Any]:
            if beside is None:
                return {}
            same = sum(a == b for a, b in zip(rows, beside, strict=True))
            pairs = [enumerate(zip(a, b, strict=False)) for a, b in zip(rows, beside, strict=True)]
            first = min((i for pair in pairs for i, (a, b) in pair if a != b), default=None)
            return {"alike": f"{same} of {len(rows)} rows"} | ({} if first is None else {"first difference": first})

        self.timed(what, run, autocast, rounds, alike, lambda: sum(map(len, rows)))
        return rows

    def theirs(self, what: str, model: Any, autocast: bool = False, **more: Any) -> None:
        given = self.prompts.to(self.found.device)

        def run() -> None:
            model.generate(
                given, attention_mask=torch.ones_like(given), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=self.size.new, min_new_tokens=self.size.new, pad_token_id=self.tokenizer.pad_token_id,
                **more,
            )  # fmt: skip

        self.timed(what, run, autocast, 2, dict, lambda: self.size.rollouts * self.size.new)

    def timed(
        self, what: str, run: Callable[[], None], autocast: bool, rounds: int, more: Callable[[], dict[str, Any]],
        count: Callable[[], int],
    ) -> None:  # fmt: skip
        if time.monotonic() > self.until:
            self.found.row(f"sampling, {what}", left_out="out of time")
            return
        with self.found.part(f"sampling, {what}"):
            spent = []
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            for _ in range(rounds + 1):
                measured.synchronize()
                began = time.perf_counter()
                with torch.autocast("cuda", torch.bfloat16) if autocast and self.cuda else nullcontext():
                    run()
                measured.synchronize()
                spent.append(time.perf_counter() - began)
            tokens = count()
            length = self.size.prompt + tokens / self.size.rollouts
            work = measured.forward(self.shape, self.size.rollouts * length, length, tokens)
            peak = {"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if self.cuda else {}
            step = {"ms a token step": round(1e3 * min(spent[1:]) * self.size.rollouts / tokens, 2)}
            first = {"first round": round(spent[0], 2)}
            self.found.speed(f"sampling, {what}", tokens, min(spent[1:]), work, **step, **first, **peak, **more())


if __name__ == "__main__":
    main()
