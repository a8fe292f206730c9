"""Whether a change of the source makes a step faster: the same steps in two source trees, in turn.

    git worktree add /tmp/before COMMIT
    OMP_NUM_THREADS=1 python benchmarks/two_trees.py /tmp/before . --model /path/to/gemma-3-270m
    OMP_NUM_THREADS=1 python benchmarks/two_trees.py /tmp/before . --toy      random weights, the toy world's width

Each side is one process that loads the model once; the two run step about step, so that both meet the same machine.
Figures are processor seconds of one thread, medians over the rounds; the ratio is the median of each round's.

    ppo     a whole PPO step without preference models: LoRA, critic on the shared trunk, one epoch of two minibatches
    learn   its evaluation and updates alone
    pm      an update of two LoRA preference models that are trained together
    score   dialogues under two LoRA preference models
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STEPS = ("ppo", "pm", "score")
REAL = {"rollouts": 8, "prompt": 24, "new": 24, "rows": 8, "width": 96}
TOY = {"rollouts": 64, "prompt": 24, "new": 72, "rows": 32, "width": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs=2, type=Path, help="the source trees; the ratio is first / second")
    parser.add_argument("--model", type=Path, help="folder of a causal language model")
    parser.add_argument("--toy", action="store_true", help="a random Llama of two layers instead")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return work(given)
    with tempfile.TemporaryDirectory() as folder:
        trees = [package(tree.resolve(), Path(folder, side)) for tree, side in zip(given.trees, "ab", strict=True)]
        model = given.model
        if given.toy:
            from pm_common import save_base

            save_base("toy", model := Path(folder, "toy"), 828)
        for step in given.steps:
            compare(trees, model, step, given)
    return None


def package(tree: Path, folder: Path) -> Path:
    """`tree` as Python would find it installed: its package with its own presets inside."""
    (folder / "morlaif").mkdir(parents=True)
    for place in (*(tree / "morlaif").iterdir(), tree / "conf", tree / "sweeps"):
        (folder / "morlaif" / place.name).symlink_to(place)
    return folder


def compare(trees: list[Path], model: Path, step: str, given: argparse.Namespace) -> None:
    sides = [start(tree, model, step, given.toy) for tree in trees]
    rounds = [[ask(side) for side in sides] for _ in range(given.rounds + 1)][1:]  # the first warms up
    for side in sides:
        side.communicate()
    print(f"\n{step}: {model.name if given.model else 'toy'}, {given.rounds} rounds", flush=True)
    for part in rounds[0][0]:
        first, second = ([row[k][part] for row in rounds] for k in (0, 1))
        ratios = sorted(a / b for a, b in zip(first, second, strict=True))
        print(
            f"  {part:<8} {statistics.median(first):8.3f} {statistics.median(second):8.3f} CPU s   "
            f"{statistics.median(ratios):.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}]",
            flush=True,
        )


def start(tree: Path, model: Path, step: str, toy: bool) -> subprocess.Popen:
    command = [sys.executable, __file__, str(tree), str(tree), "--worker", "--model", str(model), "--steps", step]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command + ["--toy"] * toy, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def ask(side: subprocess.Popen) -> dict[str, float]:
    side.stdin.write("\n")
    side.stdin.flush()
    return json.loads(side.stdout.readline())


def work(given: argparse.Namespace) -> None:
    import torch

    import morlaif

    if Path(morlaif.__file__).parents[1] != given.trees[0]:
        raise SystemExit(f"{morlaif.__file__} is not of {given.trees[0]}")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        run = {"ppo": ppo, "pm": pm, "score": score}[given.steps[0]](given.model, TOY if given.toy else REAL, folder)
        for _ in sys.stdin:
            print(json.dumps(run()), flush=True)


def clocked(part: str, run: Callable[[], object]) -> dict[str, float]:
    began = time.process_time()
    run()
    return {part: time.process_time() - began}


def ppo(model: Path, size: dict[str, int], keep: str) -> Callable[[], dict[str, float]]:
    import torch

    from morlaif.compose import look_ahead, register
    from morlaif.models.load import load_causal_lm, load_tokenizer
    from morlaif.rl.policy import ActorCritic
    from morlaif.rl.rollout import TransformersRollout
    from morlaif.rl.trainer import PPOTrainer

    changes = {
        "rollouts": size["rollouts"], "max_new_tokens": size["new"], "max_prompt_length": size["prompt"], "epochs": 1,
        "minibatches": 2, "checkpoint_every": 0, "eval_every": 0, "eval_prompts": 0, "samples": 0,
        "shaping.scaling": "none", "kl.controller": "fixed",
    }  # fmt: skip
    register()
    overrides = ["ppo=paper", *(f"ppo.{key}={value}" for key, value in changes.items())]
    made = look_ahead(argparse.Namespace(overrides=overrides, config_dir=None, multirun=False))[0][0]
    settings = made.config.ppo
    tokenizer = load_tokenizer(model)
    prompts = [[{"role": "user", "content": f"{'river stone cloud bread ' * 8}{i}"}] for i in range(size["rollouts"])]

    def reward(_: object, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text)) + i] for i, text in enumerate(texts)])

    models = ActorCritic(load_causal_lm(model, dtype=torch.float32), settings)
    trainer = PPOTrainer(
        models, tokenizer, prompts, reward, ("length",), lambda scores: scores[:, 0], settings, seed=0, keep=Path(keep)
    )
    sample, sampling = TransformersRollout.sample, 0.0

    def timed(*args: object) -> object:
        nonlocal sampling
        began = time.process_time()
        try:
            return sample(*args)
        finally:
            sampling = time.process_time() - began

    TransformersRollout.sample = timed

    def run() -> dict[str, float]:
        whole = clocked("ppo", lambda: trainer.step(0))["ppo"]
        return {"ppo": whole, "learn": whole - sampling}

    return run


def texts(size: dict[str, int], rows: int) -> list:
    """Dialogues of random words, half prompt and half response, from half the width to all of it."""
    import torch

    from morlaif.preference.model import Dialogue

    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(size["width"] // 2, size["width"], rows).int().tolist()
    return [Dialogue(torch.randint(5, 250, (n,), generator=generator).tolist(), n // 2) for n in lengths]


def pm(model: Path, size: dict[str, int], _: str) -> Callable[[], dict[str, float]]:
    import torch

    from morlaif.models.load import load_tokenizer
    from morlaif.models.settings import LoRASettings
    from morlaif.preference.learners import StackedLearner, Texts
    from morlaif.preference.model import load_classifier

    classifier = load_classifier(model, load_tokenizer(model)).requires_grad_(False).train()
    lora = LoRASettings(r=8, alpha=16, dropout=0.0, target_modules="all-linear")
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    learner = StackedLearner(("a", "b"), classifier, lora, "last", generators)
    optimizer = torch.optim.AdamW([weight for group in learner.groups() for weight in group], lr=1e-5)
    rows = Texts(texts(size, size["rows"]), 0, torch.device("cpu"))

    def update() -> None:
        first, second = learner.score(rows, range(size["rows"])).chunk(2)
        torch.nn.functional.softplus(second - first).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda: clocked("pm", update)


def score(model: Path, size: dict[str, int], _: str) -> Callable[[], dict[str, float]]:
    import torch
    from pm_common import random_adapter

    from morlaif.models.load import load_tokenizer
    from morlaif.preference.lora import forward_tokens
    from morlaif.preference.model import load_classifier, pad_batch
    from morlaif.preference.scorers import AdapterScorer

    classifier = load_classifier(model, load_tokenizer(model))
    adapters = [random_adapter(classifier, 8, k) for k in range(2)]
    names, tokens = ("a", "b"), forward_tokens(classifier)
    scorer = AdapterScorer(names, classifier, [lambda a=a: a for a in adapters], "last", tokens)
    batches = [pad_batch(texts(size, size["rows"]), 0) for _ in range(2)]

    @torch.no_grad()
    def run() -> None:
        for batch in batches:
            scorer.score(batch)

    return lambda: clocked("score", run)


if __name__ == "__main__":
    main()
