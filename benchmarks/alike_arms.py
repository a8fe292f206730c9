"""How often a comparison calls two arms different that are alike: an A/A test with real policies of the toy world.

    python benchmarks/alike_arms.py train FOLDER [--policies 16] [key=value …]  some five minutes of one core
    python benchmarks/alike_arms.py answer FOLDER                               some three
    python benchmarks/alike_arms.py ask FOLDER                                  some two

`ask` makes pairs of arms alike, S seeds each, and compares them as a comparison does, by
`morlaif.report.comparison.aggregated`, judged by the toy world's hidden utility. The seeds of its arms are

- answered: answers of the SFT policy, each by other random numbers;
- trained: policies of short runs that differ by `arms.seed` alone, from the same labels and preference models, which
  answer the held-out prompts as the evaluation has them.

The 2 S of a pair are drawn without replacement from all there are. Pairs share members, so the error of a rate is by
leaving out groups of these in turn (jackknife), not by the number of pairs.

Every verdict is false: at a level of .05 it should be given to 3 to 7 % of pairs.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from morlaif.compose import look_ahead, register
from morlaif.config import Config
from morlaif.data.records import Message, load_split, prompt_id
from morlaif.evaluation.aggregate import Cell, verdict
from morlaif.evaluation.judges import side, utilities
from morlaif.evaluation.matrix import WinMatrix
from morlaif.evaluation.policies import draws, respond
from morlaif.models.load import load_policy
from morlaif.planning.plan import plan
from morlaif.report.comparison.aggregated import Judgements, against
from morlaif.statistics import Array, Resampling, bootstrap_crossed
from morlaif.units.job import Job, gather
from morlaif.units.store import Store
from morlaif.units.unit import Unit
from morlaif.variance import crossed

ARM = [
    "arms.select=[morlaif]",
    "principles.count=4",
    "ppo.steps=4",
    "ppo.eval_every=0",
    "ppo.eval_prompts=0",
    "ppo.samples=0",
]
SEEDS, LEVEL, GROUPS = (3, 5), 0.95, 20
PAIRS, PROMPTS, TIMES = 200, 30, 10  # of `answer`: pairs, prompts of each, answers to each prompt at once
HOW: Resampling = {"seed": 0, "resamples": 1000, "confidence": LEVEL}


# --- policies and their answers ---------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    words = [*ARM, *args.overrides]
    subprocess.run([sys.executable, "-m", "morlaif", *words, "stages=[weigh]"], check=True)
    register()
    torch.set_num_threads(1)
    for seed in range(args.policies):
        file = args.folder / f"trained-{seed:03}.npy"
        if not file.exists():
            np.save(file, _trained([*words, f"arms.seed={seed}"]))
        print(f"policy {seed}: utility {np.load(file).mean():.3f}", flush=True)


def _trained(words: Sequence[str]) -> Array:
    """Utilities (N,) of the answers of the policy that these words train."""
    with tempfile.TemporaryDirectory() as folder:
        config, unit, inputs = _unit(words, "ppo/morlaif")
        out, keep = Path(folder, "out"), Path(folder, "keep")
        out.mkdir()
        keep.mkdir()
        job = Job(
            unit.stage.name, unit.name, unit.digest, unit.reads, gather(unit.stage.needs, inputs), out, keep,
            Store(config.paths.store).ledger, unit.seed, config.hardware, lambda *_, **__: None,
        )  # fmt: skip
        importlib.import_module("morlaif.stages.work.ppo").build(job)
        prompts, held_out = _prompts(config, inputs), config.seed_of("eval")
        return utilities(prompts, respond(partial(load_policy, out), prompts, config.eval, seed=held_out).texts)


def answer(args: argparse.Namespace) -> None:
    register()
    torch.set_num_threads(1)
    config, _, inputs = _unit(ARM, "ppo/morlaif")
    prompts, times = _prompts(config, inputs)[:PROMPTS] * TIMES, 2 * min(SEEDS) * PAIRS // TIMES
    many = config.eval.model_copy(update={"batch_size": len(prompts)})  # a larger batch samples almost for free
    drawn = draws(*load_policy(inputs["sft"]), prompts, many, seed=1)
    found = [utilities(prompts, made.texts).reshape(TIMES, -1) for made, _ in zip(drawn, range(times), strict=False)]
    np.save(args.folder / "answered.npy", np.concatenate(found))


def _unit(words: Sequence[str], name: str) -> tuple[Config, Unit, dict[str, Path]]:
    """The config, a unit of its plan, and where what it needs lies."""
    flags = Namespace(overrides=list(words), config_dir=None, multirun=False)
    config = look_ahead(flags)[0][0].config
    unit, store = plan(config).by_name[name], Store(config.paths.store)
    return config, unit, {need.name: store.folder(need) for need in unit.needs}


def _prompts(config: Config, inputs: dict[str, Path]) -> list[list[Message]]:
    """Those of the evaluation."""
    held_out = {prompt_id(e.messages): e.messages for e in load_split(inputs["data"], "eval")}
    return list(held_out.values())[: config.eval.prompts]


# --- pairs of arms alike ---------------------------------------------------------------------------------------------


def compared(values: Array, seeds: int, bootstrap: bool = True) -> dict[str, bool | None]:
    """Whether two arms, the first and the last `seeds` of `values` (2 S, N), are called different, by each interval."""
    names = tuple(f"p{k}" for k in range(len(values)))
    pairs = itertools.combinations(range(len(values)), 2)
    outcome = np.array([side(values[i] - values[j]) for i, j in pairs])
    judged = Judgements([WinMatrix(names, outcome, np.zeros_like(outcome, dtype=bool))])
    arms = [
        Cell(f"arm{k}", f"arm {k}", f"arm{k}", {}, {f"arms seed {s}": names[k * seeds + s] for s in range(seeds)})
        for k in (0, 1)
    ]
    found = against(*arms, judged, HOW)
    boot = bootstrap_crossed(found.values.T, **HOW) if bootstrap else None
    alone = crossed(found.values[:1], share=True).interval(LEVEL)
    return {
        "verdict": verdict(found.mean, found.mean.p_value(0.5), LEVEL) in ("better", "worse"),
        "bootstrap": None if boot is None else not boot.low <= 0.5 <= boot.high,
        "prompts alone": not alone.low <= 0.5 <= alone.high,
    }


def ask(args: argparse.Namespace) -> None:
    pools = {"answered": np.load(args.folder / "answered.npy")}
    if files := sorted(args.folder.glob("trained-*.npy")):
        pools["trained"] = np.array([np.load(file) for file in files])
    rng = np.random.default_rng(0)
    print("| arms alike | of | seeds | pairs | called different (verdicts) | crossed bootstrap | prompts alone |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for (name, pool), seeds in itertools.product(pools.items(), SEEDS):
        if len(pool) < 2 * seeds:
            continue
        drawn = [rng.permutation(len(pool))[: 2 * seeds] for _ in range(args.pairs)]
        found = [compared(pool[places], seeds, k % 10 == 0) for k, places in enumerate(drawn)]
        cells = [_rate([one[kind] for one in found], drawn, len(pool)) for kind in found[0]]
        print(f"| {name} | {len(pool)} | {seeds} | {args.pairs} | {' | '.join(cells)} |", flush=True)
    for name, pool in pools.items():
        rates = [side(a - b).mean() for a, b in itertools.combinations(pool[:50], 2)]
        print(
            f"{name}: win rate of one over another {min(rates):.3f} to {max(rates):.3f}, deviation {np.std(rates):.3f}"
        )


def _rate(called: Sequence[bool | None], drawn: Sequence[Array], members: int) -> str:
    """Of the pairs that were asked, with its jackknife error over groups of members; left out where few were asked."""
    asked = np.array([flag for flag in called if flag is not None])
    if len(asked) < len(called):
        return f"{100 * asked.mean():.1f} %"
    groups = min(members, GROUPS)
    without = [asked[[group not in places % groups for places in drawn]].mean() for group in range(groups)]
    error = float(np.sqrt((groups - 1) / groups * np.square(np.array(without) - np.mean(without)).sum()))
    return f"{100 * asked.mean():.1f} % ± {100 * 1.96 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for action in (train, answer, ask):
        command = commands.add_parser(action.__name__)
        command.add_argument("folder", type=Path)
        command.set_defaults(action=action)
        if action is train:
            command.add_argument("--policies", type=int, default=16)
            command.add_argument("overrides", nargs="*")
        elif action is ask:
            command.add_argument("--pairs", type=int, default=4000)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
