"""A soup of two policies on a real model: does it answer by the weights that it is given?

    python benchmarks/real/steered.py --policy GEMMA_FOLDER --data helpful.jsonl.gz --work FOLDER

Two preference models on the base, of detail and of conciseness, learn from a judge that counts words (`words.py`); two
policies learn from each alone, by DPO of the best against the worst of four samples; their soups answer 30 held-out
prompts at five weights under the same random numbers. All that it takes is `SETTINGS`, which was written before the
first run. A run that was ended goes on where it was.

It prints, for each weight: what the preference models think of the answers, in deviations of the base model's answers
and against its answer to the same prompt, with 95 % bootstrap intervals over prompts; the counts that the judge makes;
and, paired by prompt, each step towards detail and the whole way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from words import RULES

from morlaif.statistics import bootstrap_mean

NAMES = ("detail", "conciseness")
SETTINGS = [
    "experiment=local", "budget=small", "name=steered", "arms.select=[online_dpo]", "stages=[front]",
    "data=hh_rlhf", "data.limit=130", "data.eval_size=30",
    "principles=paper12", "principles.select=[detail,conciseness]", "principles.count=null",
    "feedback=plugin", "feedback.source=words.Words", "judge=none", "sft=none",
    "respond=sample", "respond.max_prompt_tokens=32", "respond.max_new_tokens=24",
    "pm=lora", "pm.max_length=56", "pm.batch_size=4", "pm.micro_batch_size=4", "pm.learning_rate=3e-4",
    "pm.head_learning_rate=3e-3", "pm.gradient_checkpointing=false",
    "weights.prompts=32", "weights.max_prompt_tokens=32", "weights.max_new_tokens=24",
    "front=lora", "front.arm=online_dpo", "front.objectives=[detail,conciseness]", "front.steps=4",
    "online_dpo.n=4", "online_dpo.rounds=1", "online_dpo.prompts=40", "online_dpo.eval_prompts=4",
    "online_dpo.sampling.max_prompt_tokens=32", "online_dpo.sampling.max_new_tokens=24",
    "online_dpo.dpo.max_length=56", "online_dpo.dpo.batch_size=2", "online_dpo.dpo.micro_batch_size=2",
    "online_dpo.dpo.epochs=2", "online_dpo.dpo.optimizer.learning_rate=2e-4", "online_dpo.dpo.optimizer.warmup_steps=4",
    "online_dpo.dpo.policy.gradient_checkpointing=false", "online_dpo.dpo.checkpoint_every=0",
    "eval=plugin", "eval.judge.engine.source=words.Words", "eval.judge.engine.params.rule=detail",
    "eval.prompts=30", "eval.max_prompt_tokens=32", "eval.max_new_tokens=24",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, required=True, help="dialogues of hh-rlhf")
    parser.add_argument("--work", type=Path, required=True, help="where store and runs lie")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dry-run", action="store_true", help="say what it would take")
    args = parser.parse_args()
    overrides = [
        *SETTINGS, f"model.path={args.policy}", f"data.path={args.data}", f"hardware.threads={args.threads}",
        f"paths.store={args.work / 'store'}", f"paths.runs={args.work / 'runs'}", f"dry_run={args.dry_run}",
    ]  # fmt: skip
    here = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    subprocess.run([sys.executable, "-m", "morlaif", *overrides], check=True, env={**os.environ, "PYTHONPATH": here})
    if not args.dry_run:
        for manifest in sorted((args.work / "store" / "pm").glob("*/manifest.json")):
            made = json.loads(manifest.read_text())
            print(f"{made['name']}: {made['summary']}")
        (grid,) = (args.work / "store" / "front").glob("*/grid.jsonl")
        table([json.loads(line) for line in grid.read_text().splitlines()])


def table(rows: list[dict]) -> None:
    """Print what the rows of grid.jsonl come to."""
    points = list(rows[0]["points"])  # from detail alone to conciseness alone
    places = np.array([[list(row["points"][name]["place"].values()) for name in points] for row in rows])  # (N, P, 2)
    counts = np.array([[[RULES[k](row["points"][name]["text"]) for k in NAMES] for name in points] for row in rows])
    base = np.array([[RULES[k](row["sft"]) for k in NAMES] for row in rows])
    print("| weights | detail, PM | conciseness, PM | long words | words |\n|---|--:|--:|--:|--:|")
    print(f"| base model | 0 | 0 | {base[:, 0].mean():.1f} | {-base[:, 1].mean():.1f} |")
    for p, name in enumerate(points):
        shown = [interval(places[:, p, k]) for k in range(2)]
        print(f"| {name} | {' | '.join(shown)} | {counts[:, p, 0].mean():.1f} | {-counts[:, p, 1].mean():.1f} |")
    print("\n| from, to | detail, PM | conciseness, PM |\n|---|--:|--:|")
    ways = [*zip(range(1, len(points)), range(len(points) - 1), strict=True), (len(points) - 1, 0)]
    for start, end in ways:
        shown = [interval(places[:, end, k] - places[:, start, k]) for k in range(2)]
        print(f"| {points[start]}, {points[end]} | {' | '.join(shown)} |")


def interval(values: np.ndarray) -> str:
    found = bootstrap_mean(values, seed=0)
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


if __name__ == "__main__":
    main()
