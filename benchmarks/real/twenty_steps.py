"""Twenty steps of PPO on a real model, and what they gained on prompts that nothing in the run had seen.

    python benchmarks/real/twenty_steps.py --policy GEMMA_FOLDER --data helpful.jsonl.gz --work FOLDER [--png PNG]

The policy is the base model with a LoRA adapter, by RLOO; the reward is a LoRA preference model on the same base,
trained on human labels of hh-rlhf (`feedback=human`). All that it takes is `SETTINGS`, which was written before the
first run. A run that was ended goes on where it was. At the end base model and policy answer the prompts of the
held-out split with the same random numbers, and the preference model scores both: the gain is the mean difference, in
deviations of the base model's scores, with its 95 % bootstrap interval over prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

from morlaif.compose import look_ahead, register
from morlaif.data.records import different_prompts, load_split
from morlaif.evaluation.policies import respond
from morlaif.models.load import load_policy, source_of
from morlaif.planning.plan import plan
from morlaif.preference.bank import PreferenceBank
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.statistics import bootstrap_mean
from morlaif.units.store import Store

SETTINGS = [
    "experiment=local", "budget=small", "name=twenty-steps", "arms.select=[morlaif]",
    "data=hh_rlhf", "data.limit=260", "data.eval_size=60",
    "principles=human", "feedback=human", "respond=pairs", "sft=none", "judge=none", "eval=gold_small",
    "pm=lora", "pm.max_length=64", "pm.batch_size=16", "pm.micro_batch_size=4", "pm.learning_rate=3e-4",
    "pm.head_learning_rate=3e-3", "pm.checkpoint_every=1",
    "weights.prompts=32", "weights.max_prompt_tokens=32", "weights.max_new_tokens=24",
    "ppo=rloo", "ppo.steps=20", "ppo.rollouts=16", "ppo.minibatches=2", "ppo.max_prompt_length=32",
    "ppo.max_new_tokens=24", "ppo.optimizer.learning_rate=3e-4", "ppo.eval_every=0",
    "ppo.eval_prompts=32", "ppo.samples=32", "ppo.checkpoint_every=1",
    "eval.prompts=60", "eval.max_prompt_tokens=32", "eval.max_new_tokens=24",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, required=True, help="dialogues of hh-rlhf")
    parser.add_argument("--work", type=Path, required=True, help="where store and runs lie")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    overrides = [
        *SETTINGS, f"model.path={args.policy}", f"data.path={args.data}", f"hardware.threads={args.threads}",
        f"paths.store={args.work / 'store'}", f"paths.runs={args.work / 'runs'}",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "morlaif", *overrides, "stages=[ppo]"], check=True)
    register()
    config = look_ahead(Namespace(overrides=overrides, config_dir=None, multirun=False))[0][0].config
    store, units = Store(config.paths.store), plan(config).by_name
    folders = {
        name: store.folder(units[name]) for name in ("data", "sft", "pm/preference", "weigh/morlaif", "ppo/morlaif")
    }
    curve = [json.loads(line) for line in (folders["ppo/morlaif"] / "curve.jsonl").read_text().splitlines()]
    gain = held_out_gain(config, folders, args.threads)
    accuracy = json.loads((folders["pm/preference"] / "pm.json").read_text())["accuracy"]
    print(f"preference model: right on {accuracy['value']:.0%} of {accuracy['n']} held-out human labels")
    print("| step | reward | KL, nats | entropy, nats | tokens |\n|--:|--:|--:|--:|--:|")
    for row in curve[:: max(1, len(curve) // 5)] + curve[-1:]:
        print(f"| {row['step']} | {row['reward']:.2f} | {row['kl']:.2f} | {row['entropy']:.2f} | {row['length']:.1f} |")
    own, low, high = (curve[-1][f"eval/{key}"] for key in ("gain", "gain_low", "gain_high"))
    print(f"{config.ppo.eval_prompts} prompts held out from PPO: {own:+.2f} [{low:+.2f}, {high:+.2f}]")
    print(f"{gain.n} prompts of the held-out split: {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")
    if args.png:
        draw(args.png, curve, gain)


def held_out_gain(config, folders, threads):
    """Mean difference of the objective between policy and base model on the held-out split's prompts."""
    import torch

    torch.set_num_threads(threads)
    prompts = list(different_prompts(load_split(folders["data"], "eval"))[: config.eval.prompts])
    bank = PreferenceBank.load({"preference": folders["pm/preference"]}, source_of(folders["sft"], config.model))
    objective = Objective.load(folders["weigh/morlaif"] / "weights.json", linear)
    rewards = []
    for name in ("sft", "ppo/morlaif"):
        made = respond(partial(load_policy, folders[name], base=config.model), prompts, config.eval, seed=0)
        rewards.append(objective(bank.score(prompts, made.texts).float()))
    return bootstrap_mean((rewards[1] - rewards[0]).tolist(), seed=0)


def draw(png: Path, curve, gain) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, 3, figsize=(10, 3), width_ratios=(3, 3, 1), layout="constrained")
    for axes, key, title in zip(
        panels, ("reward", "kl"), ("reward of the rollouts", "KL to the base, nats"), strict=False
    ):
        axes.plot([row["step"] for row in curve], [row[key] for row in curve], color="#0072b2")
        axes.set(xlabel="PPO step", title=title)
    panels[2].errorbar(
        [0], [gain.value], [[gain.value - gain.low], [gain.high - gain.value]], fmt="o", color="#d55e00", capsize=5
    )
    panels[2].axhline(0, color="#777777", linewidth=0.8, linestyle=":")
    panels[2].set(xticks=[], title=f"held out, {gain.n}")
    figure.savefig(png, dpi=120)


if __name__ == "__main__":
    main()
