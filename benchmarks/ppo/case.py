"""What both sides of the comparison are given: a folder with weights, prompts and numbers.

policy/        a causal LM with its tokenizer
reference/     the policy with noise on its weights, so that the first step of `parity` has a KL to compare
scorer/        a classifier: reward model, and what a separate critic begins as
prompts.json   messages and their ids
case.json      the fields of `Case`
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """The numbers that both trainers share."""

    rollouts: int = 64
    new_tokens: int = 72
    epochs: int = 4
    minibatches: int = 2
    learning_rate: float = 1e-5
    kl_coef: float = 0.05
    clip: float = 0.2
    value_coef: float = 0.1
    lam: float = 0.95
    missing_eos: float = 1.0
    lora: bool = False
    steps: int = 1000  # never reached: the driver ends both sides

    def save(self, folder: Path) -> None:
        (folder / "case.json").write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Case:
        return cls(**json.loads((folder / "case.json").read_text()))


LORA = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear", "lora_dropout": 0.0}


def toy(folder: Path, width: int, vocabulary: int | None, case: Case) -> None:
    """The toy world's fine-tuned policy: a Llama of two layers whose responses end at lengths of their own."""
    store = folder / "store"
    command = ["-m", "morlaif", "stages=[sft]", f"paths.store={store}", f"paths.runs={folder / 'runs'}"]
    if not list(store.glob("sft/*/model")):
        subprocess.run([sys.executable, *command, f"model.scratch.hidden_size={width}"], check=True, cwd=ROOT)
    (source,) = store.glob("sft/*/model")
    from morlaif.data.chat import prompt_ids
    from morlaif.data.records import load_split, prompt_id
    from morlaif.models.load import load_causal_lm, load_tokenizer

    model, tokenizer = load_causal_lm(source), load_tokenizer(source)
    (data,) = (path.parent for path in store.glob("data/*/manifest.json"))
    messages = list({prompt_id(e.messages): e.messages for e in load_split(data, "train")}.values())
    if vocabulary is not None:
        _widen(model, vocabulary, [prompt_ids(tokenizer, m) for m in messages[:32]])
    _write(folder, model, tokenizer, messages, case)


def _widen(model: Any, vocabulary: int, prompts: list[list[int]]) -> None:
    """Grow the vocabulary by ids that cost as much as any and are never sampled: their logits are some -20."""
    import torch

    with torch.no_grad():
        states = [model.base_model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in prompts]
        mean = torch.stack(states).mean(0)
        old = model.config.vocab_size
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
        model.get_output_embeddings().weight[old:] = -20 * mean / mean.square().sum()


def gpt2_small(folder: Path, case: Case) -> None:
    """The shape of GPT-2 small with random weights: 124 million parameters, 50,257 tokens; no response ends early."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from morlaif.models.scratch import train_tokenizer

    texts = [f"Human: question {i}? Assistant: answer {i} of {i * 7}." for i in range(200)]
    tokenizer = train_tokenizer(texts, 400)
    torch.manual_seed(0)
    config = GPT2Config(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    messages = [[{"role": "user", "content": f"question {i} of {i * 7}, please?"}] for i in range(case.rollouts)]
    _write(folder, GPT2LMHeadModel(config), tokenizer, messages, case)


def _write(folder: Path, model: Any, tokenizer: Any, messages: list, case: Case) -> None:
    """The scorer is the policy's trunk under a head drawn as reward models' heads are."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from morlaif.data.chat import prompt_ids

    tokenizer.padding_side = "left"
    model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    scorer = AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        width = scorer.score.weight.shape[1]
        scorer.score.weight.normal_(0, 1 / math.sqrt(width + 1), generator=torch.Generator().manual_seed(1))
    scorer.save_pretrained(folder / "scorer")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    model.save_pretrained(folder / "reference")
    rows = [{"messages": m, "ids": prompt_ids(tokenizer, m)} for m in messages[: case.rollouts]]
    (folder / "prompts.json").write_text(json.dumps(rows))
    case.save(folder)


def resident() -> float:
    """MB of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak() -> float:
    """MB that it had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class Wire:
    """Lines from the driver, JSON lines back to it; whatever else a library prints goes to standard error."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def begin(self) -> bool:
        """Wait for the driver; whether it wants a step, whose time runs from now on."""
        wanted = sys.stdin.readline().strip() == "step"
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return wanted

    def end(self, **facts: Any) -> None:
        """The seconds of the step, the memory, and what else is to be known of it."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.tell(wall=wall, cpu=cpu, resident=resident(), peak=peak(), **facts)

    def tell(self, **facts: Any) -> None:
        self.out.write(json.dumps(facts) + "\n")
