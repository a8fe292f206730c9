"""Where a PPO step's time goes, and how far each part is from its floor.

    morlaif "arms.select=[morlaif]" "stages=[weigh]"                       # the units that ppo needs, in the store
    python benchmarks/ppo/profile_step.py [--steps 6] [key=value …]

Time is CPU time of one thread, so that other work on the machine disturbs it least. Operations are those of matrix
products and attention, two for each multiplication with its addition; the floor of a part is its operations over the
machine's measured matrix rate. The last table tells the kinds of kernels apart, as torch's profiler sees them.

Peaks are of anonymous memory (no libraries, no mapped files): weights of policy and critic, and what a step takes
beside what there was before it, over what no step can do without: these weights, gradients and moments of what learns,
keys and values. Have freed memory returned at once: MALLOC_MMAP_THRESHOLD_=262144 MALLOC_TRIM_THRESHOLD_=262144.

With a pretrained model, no store, and one preference model of its size with a head of random numbers:

    python benchmarks/ppo/profile_step.py --policy FOLDER --steps 1 --no-kernels [ppo key=value …]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import statistics
import tempfile
import threading
import time
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import torch
import yaml
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from morlaif.compose import look_ahead, register
from morlaif.memory.dimensions import of_config
from morlaif.models.load import load_causal_lm, load_tokenizer
from morlaif.planning.plan import plan
from morlaif.preference.model import load_classifier
from morlaif.presets import preset
from morlaif.rl import learner, trainer
from morlaif.rl.policy import ActorCritic
from morlaif.rl.rollout import TransformersRollout
from morlaif.rl.settings import PPOSettings
from morlaif.units.job import Job, gather
from morlaif.units.store import Store

TEXT = """How do I plan a small garden that feeds a family of four through a whole year without much water or any help
from the neighbours next door"""
aten = torch.ops.aten
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g, q, k, v
    ),
}
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "optimizer": ("Optimizer", "aten::_fused_adamw"),
    "softmax of the vocabulary": ("aten::_log_softmax", "aten::exp", "aten::cumsum", "aten::_softmax"),
    "copies and gathers": ("aten::cat", "aten::copy_", "aten::index", "aten::fill_", "aten::clone", "aten::gather"),
}


def matrix_rate(size: int = 2048, times: int = 5) -> float:
    """Operations a second of one thread in a float32 product of squares; the best of some."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = 0.0
    for _ in range(times):
        start = time.process_time()
        a @ b
        best = max(best, 2 * size**3 / (time.process_time() - start))
    return best


def anonymous() -> int:
    """Bytes of this process's own memory that are resident."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


class Peak:
    """The most anonymous memory since the last `take`, as a thread sees it every ten milliseconds."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.01)

    def take(self) -> int:
        most, self.most = max(self.most, anonymous()), 0
        return most


def needed(made: trainer.PPOTrainer) -> dict[str, float]:
    """Bytes that no step can do without."""
    models, s = made.engine.models, made.settings
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in models.parameters()}
    learning = sum(p.numel() for p in models.parameters() if p.requires_grad)
    dims = of_config(models.model.config.to_dict())
    width = max(map(len, made.prompt_ids)) + s.max_new_tokens
    rows = min(s.rollouts, s.generation_batch_size)
    cache = rows * dims.cached(width) * models.model.dtype.itemsize
    return {"weights": sum(held.values()), "gradients and moments": 12.0 * learning, "keys and values": cache}


class Parts:
    """CPU seconds and operations of each part of each step."""

    def __init__(self, kernels: bool) -> None:
        self.before, self.peak, self.by_kernel = 0, Peak(), kernels
        self.peaks: dict[str, int] = {}
        self.needed: dict[str, float] = {}
        self.steps: list[dict[str, float]] = []
        self.operations: dict[str, float] = {}
        self.kernels: dict[str, float] = {}
        self.facts: dict[str, float] = {}
        self.counting = False

    @contextlib.contextmanager
    def part(self, name: str):
        with (
            FlopCounterMode(display=False, custom_mapping=ATTENTION) if self.counting else contextlib.nullcontext() as c
        ):
            self.peak.take()
            start = time.process_time()
            yield
            row = self.steps[-1]
            if not self.counting:
                self.peaks[name] = max(self.peaks.get(name, 0), self.peak.take() - self.before)
            row[name] = row.get(name, 0.0) + time.process_time() - start
        if self.counting:
            self.operations[name] = self.operations.get(name, 0.0) + c.get_total_flops()

    def around(self, owner: object, attribute: str, name: str) -> None:
        inner = getattr(owner, attribute)

        def timed(*args, **kwargs):
            if not self.steps:
                return inner(*args, **kwargs)
            with self.part(name):
                return inner(*args, **kwargs)

        setattr(owner, attribute, timed)

    def install(self, timed: int) -> None:
        """`timed` steps, then one whose operations are counted, then one whose kernels are."""
        self.around(TransformersRollout, "sample", "sample")
        self.around(trainer.PPOTrainer, "score", "score")
        self.around(trainer.PPOTrainer, "evaluate", "evaluate")
        self.around(learner, "optimize", "optimise")
        step = trainer.PPOTrainer.step

        def counted(made, number):
            self.counting = number == timed
            if not self.steps:
                gc.collect()
                self.before = anonymous()
            self.steps.append({})
            start = time.process_time()
            if number > timed and self.by_kernel:
                with profile(activities=[ProfilerActivity.CPU]) as profiler:
                    row = step(made, number)
                self._sort(profiler.key_averages(), time.process_time() - start)
            else:
                row = step(made, number)
            self.steps[-1]["whole"] = time.process_time() - start
            self.needed = needed(made)
            self.facts = {"tokens": row["length"] * made.settings.rollouts, "rollouts": made.settings.rollouts}
            return row

        trainer.PPOTrainer.step = counted

    def _sort(self, events, _: float) -> None:
        found: dict[str, float] = defaultdict(float)
        for event in events:
            kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), "element by element, other")
            found[kind] += event.self_cpu_time_total / 1e6
        self.kernels = dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--no-kernels", dest="kernels", action="store_false", help="leave the last step and table out")
    parser.add_argument("--policy", type=Path, help="folder of a model that is profiled alone, without a run's units")
    parser.add_argument("overrides", nargs="*", help="of the run, such as ppo.rollouts=128; of `ppo` with --policy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = Parts(args.kernels)
    parts.install(args.steps)
    with tempfile.TemporaryDirectory() as folder:
        models = (of_folder if args.policy else of_run)(args, Path(folder))
    report(parts, args.steps, models)


def of_folder(args: argparse.Namespace, keep: Path) -> int:
    """PPO of a LoRA policy with a critic on its trunk; prompts of 5 to 24 words."""
    changes = {
        "steps": args.steps + 1 + args.kernels, "rollouts": 16, "generation_batch_size": 16, "max_new_tokens": 32,
        "epochs": 1, "minibatches": 2, "max_prompt_length": 64, "checkpoint_every": 0, "eval_every": 0,
        "eval_prompts": 0, "samples": 0,
    }  # fmt: skip
    changes |= {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in args.overrides)}
    settings = PPOSettings(**(preset("ppo", "paper") | changes))
    tokenizer = load_tokenizer(args.policy)
    models = ActorCritic(load_causal_lm(args.policy, tokenizer=tokenizer, dtype=torch.float32).eval(), settings)
    judge = load_classifier(args.policy, tokenizer)
    words = TEXT.split()
    prompts = [[{"role": "user", "content": " ".join(words[: 5 + i])}] for i in range(20)]

    @torch.no_grad()
    def reward(asked, answers):
        texts = [f"{turns[-1]['content']} {answer}" for turns, answer in zip(asked, answers, strict=True)]
        return judge(**tokenizer(texts, return_tensors="pt", padding=True)).logits

    made = trainer.PPOTrainer(
        models, tokenizer, prompts, reward, ["score"], lambda scores: scores[:, 0], settings, seed=0, keep=keep
    )
    made.run()
    return 1


def of_run(args: argparse.Namespace, folder: Path) -> int:
    register()
    steps = args.steps + 1 + args.kernels
    overrides = [*args.overrides, "arms.select=[morlaif]", f"ppo.steps={steps}", "ppo.eval_every=0"]
    config = look_ahead(Namespace(overrides=overrides, config_dir=None, multirun=False))[0][0].config
    unit, store = plan(config).by_name["ppo/morlaif"], Store(config.paths.store)
    inputs = {need.name: store.folder(need) for need in unit.needs}
    build = importlib.import_module("morlaif.stages.work.ppo").build
    out, keep = folder / "out", folder / "keep"
    out.mkdir()
    keep.mkdir()
    build(
        Job(
            unit.stage.name, unit.name, unit.digest, unit.reads,
            gather(unit.stage.needs, inputs), out, keep, store.ledger, unit.seed,
            config.hardware, lambda *_: None,
        )
    )  # fmt: skip
    return len(config.principles.chosen)


def report(parts: Parts, steps: int, principles: int) -> None:
    rate = matrix_rate()
    timed = parts.steps[min(1, steps - 1) : steps]  # the first of several warms up
    whole = statistics.median(row["whole"] for row in timed)
    print(f"{principles} preference models, {parts.facts['rollouts']} rollouts, {parts.facts['tokens']:.0f} tokens")
    print(f"one thread, float32: {rate / 1e9:.0f} GFLOP/s in a product of 2048 x 2048\n")
    print("| part | CPU s | share | GFLOP | floor, s | times the floor | of the rate | takes GB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    names = ("sample", "score", "evaluate", "optimise")
    rest = statistics.median(row["whole"] - sum(row[name] for name in names) for row in timed)
    for name in names:
        seconds = statistics.median(row[name] for row in timed)
        operations = parts.operations[name]
        floor = operations / rate
        print(
            f"| {name} | {seconds:.3f} | {seconds / whole:.0%} | {operations / 1e9:.2f} | {floor:.3f} | "
            f"{seconds / floor:.1f} | {floor / seconds:.0%} | {parts.peaks[name] / 1e9:.2f} |"
        )
    print(f"| collate, shape, log | {rest:.3f} | {rest / whole:.0%} | | | | | |")
    total = sum(parts.operations.values())
    print(
        f"| whole step | {whole:.3f} | | {total / 1e9:.2f} | {total / rate:.3f} | {whole / (total / rate):.1f} | "
        f"{total / rate / whole:.0%} | {max(parts.peaks.values()) / 1e9:.2f} |\n"
    )
    least = sum(parts.needed.values())
    listed = " + ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.needed.items())
    weights = parts.needed["weights"]
    print(f"peak {(weights + max(parts.peaks.values())) / least:.2f} times {listed} = {least / 1e9:.2f} GB\n")
    if not parts.kernels:
        return
    kernels = sum(parts.kernels.values())
    print("| kernels | share |\n|---|--:|")
    for name, seconds in sorted(parts.kernels.items(), key=lambda item: -item[1]):
        print(f"| {name} | {seconds / kernels:.0%} |")


if __name__ == "__main__":
    main()
