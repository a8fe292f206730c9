"""Training twelve preference models of the toy world: twelve separate LoRA runs against training them together.

    python benchmarks/pm_training.py [--store DIR] [--rounds 3] [--seeds 0 1 2] [--kinds toy_trunk toy_heads …]

The quickstart's dialogues, fine-tuned toy model, pairs and verdicts are built first (or found in the store). The other
side is LoRA as peft trains it on transformers' own forward: the loop, loss, batches and settings are the same, one
principle after another, each tokenizing, training, testing and saving for itself in one process (imports and start-up
of twelve processes would only make it slower). `lora, one by one` is this project's own with `joint: 1`. Rounds go in
turn; times are medians of the processor seconds and the wall seconds of whole trainings, accuracies means over the
twelve principles' held-out verdicts and over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from pydantic import TypeAdapter

from morlaif.data.records import load_pairs
from morlaif.feedback.records import load_verdicts
from morlaif.models.load import load_tokenizer
from morlaif.preference.learners import Texts, score_texts
from morlaif.preference.metrics import agreement
from morlaif.preference.model import pool, tokenize
from morlaif.preference.pairs import label_pairs
from morlaif.preference.settings import PMSettings
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms
from morlaif.preference.trainer import PMTrainer, TrainingPairs

CONF = Path(__file__).parents[1] / "conf"
PEFT, APART = "peft, twelve runs", "lora, one by one"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", default=["toy", "toy_trunk", "toy_heads"])
    parser.add_argument("--set", nargs="*", default=[], help="KIND.key=value")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = given.store or Path(scratch) / "store"
        corpus, verdicts = world(store.absolute(), Path(scratch))
        sides = {PEFT: settings_of("toy", []), APART: settings_of("toy", ["toy.joint=1"])}
        sides |= {kind: settings_of(kind, given.set) for kind in given.kinds}
        measure(sides, corpus, verdicts, given.seeds, given.rounds, Path(scratch))


def measure(sides, corpus, verdicts, seeds, rounds, scratch: Path) -> None:
    wall, busy = ({side: [] for side in sides} for _ in range(2))
    accuracy: dict[str, dict[int, list[float]]] = {side: {} for side in sides}
    for round_ in range(rounds):
        seed = seeds[round_ % len(seeds)]
        for side, settings in sides.items():
            out = scratch / f"{round_}-{side}"
            began = time.perf_counter(), time.process_time()
            found = train(side, settings, corpus, verdicts, seed, out)
            wall[side].append(time.perf_counter() - began[0])
            busy[side].append(time.process_time() - began[1])
            accuracy[side][seed] = found
            mean = statistics.mean(accuracy[side][seed])
            print(f"  round {round_}: {side:<18} {busy[side][-1]:7.2f} CPU s, accuracy {mean:.4f}", flush=True)
    for seed in seeds[rounds:]:
        for side, settings in sides.items():
            accuracy[side][seed] = train(side, settings, corpus, verdicts, seed, scratch / f"{seed}-{side}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(corpus.pairs)} pairs, {rounds} rounds")
    print(f"{'':<20} {'CPU s':>7} {'times':>7} {'wall s':>7} {'times':>7} {'accuracy':>9} {'worst':>6} {'seeds':>6}")
    for side in sides:
        cpu, clock = (
            statistics.median(a / b for a, b in zip(own[PEFT], own[side], strict=True)) for own in (busy, wall)
        )
        values = np.array(list(accuracy[side].values()))
        times = f"{statistics.median(busy[side]):7.2f} {cpu:7.2f} {statistics.median(wall[side]):7.2f} {clock:7.2f}"
        print(f"{side:<20} {times} {values.mean():9.4f} {values.min(1).mean():6.3f} {len(values):6}")


def train(side: str, settings, corpus: Corpus, verdicts, seed: int, out: Path) -> list[float]:
    """Accuracy of each principle."""
    tasks = []
    for name, (learnt, held, question) in verdicts.items():
        (out / name).mkdir(parents=True)
        tasks.append(Task(name, learnt, held, out / name, question))
    if side == PEFT:
        return [with_peft(task, corpus, settings, seed) for task in tasks]
    groups = [[task] for task in tasks] if side == APART else [tasks]
    reports = {}
    for group in groups:
        reports |= train_pms(group, corpus, settings, seed=seed)
    return [report.accuracy["value"] for report in reports.values()]


class PeftLearner:
    """What `fit` trains: peft's adapter in transformers' classifier."""

    apart = True

    def __init__(self, name: str, model, pooling: str) -> None:
        self.names, self.model, self.pooling = (name,), model, pooling

    def score(self, texts: Texts, which) -> torch.Tensor:
        batch = texts.batch(which)
        inner = self.model.get_base_model()
        states = inner.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        return inner.score(pool(states, batch, self.pooling)).float()

    def groups(self):
        learning = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        trunk = [weight for name, weight in learning.items() if "lora_" in name]
        return trunk, [weight for name, weight in learning.items() if "lora_" not in name]

    def weights(self, k: int):
        return [weight.detach() for group in self.groups() for weight in group]

    def clip(self, limit: float) -> None:
        torch.nn.utils.clip_grad_norm_([weight for group in self.groups() for weight in group], limit)


def with_peft(task: Task, corpus: Corpus, settings, seed: int) -> float:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(corpus.base)
    encode = partial(tokenize, tokenizer, max_length=settings.max_length)
    data = label_pairs(encode, corpus.pairs, {task.principle: task.verdicts})
    held = label_pairs(encode, corpus.held_pairs, {task.principle: task.held_verdicts})
    torch.manual_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(corpus.base, num_labels=1, dtype=torch.float32)
    lora = LoraConfig(
        task_type="SEQ_CLS", r=settings.lora.r, lora_alpha=settings.lora.alpha, lora_dropout=settings.lora.dropout,
        target_modules=settings.lora.target_modules, exclude_modules=["score"], modules_to_save=["score"],
    )  # fmt: skip
    model = get_peft_model(base, lora)
    learner = PeftLearner(task.principle, model, settings.pooling)
    texts, held_texts = (Texts(part.rows, tokenizer.pad_token_id, corpus.device) for part in (data, held))
    usable = (~data.probability[:, 0].isnan()).nonzero().flatten().tolist()
    generator = torch.Generator().manual_seed(seed)
    pairs = TrainingPairs(texts, data.probability, usable)
    PMTrainer(learner, pairs, settings, generator, corpus.dtype).run()
    first, second = score_texts(learner, held_texts, range(len(held_texts.rows)), corpus.dtype)[:, 0].chunk(2)
    model.save_pretrained(task.out / "model")
    return float(np.nanmean(agreement(first - second, held.probability[:, 0])))


def settings_of(kind: str, changes: list[str]) -> PMSettings:
    values = yaml.safe_load((CONF / "pm" / f"{kind}.yaml").read_text())
    for change in changes:
        key, value = change.split("=", 1)
        whom, *path = key.split(".")
        if whom == kind:
            place = values
            for part in path[:-1]:
                place = place[part]
            place[path[-1]] = yaml.safe_load(value)
    return TypeAdapter(PMSettings).validate_python(values)


def world(store: Path, scratch: Path):
    """Pairs, base and the twelve principles' verdicts of the quickstart."""
    command = [
        sys.executable, "-m", "morlaif", "stages=[feedback]", "arms.select=[morlaif]", f"paths.store={store}",
        f"paths.runs={scratch / 'runs'}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (record,) = (scratch / "runs").glob("*/run.json")
    folders = {u["name"]: store / u["stage"] / u["digest"] for u in json.loads(record.read_text())["units"]}
    pairs, held = (load_pairs(folders["respond"], split) for split in ("train", "eval"))
    verdicts = {}
    for name, folder in folders.items():
        if name.startswith("feedback/"):
            question = json.loads((folder / "manifest.json").read_text())["reads"]["principle"]["question"]
            parts = (load_verdicts(folder, split) for split in ("train", "eval"))
            verdicts[name.removeprefix("feedback/")] = (*parts, question)
    return Corpus(pairs, held, folders["sft"] / "model"), verdicts


if __name__ == "__main__":
    main()
