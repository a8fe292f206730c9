"""How often a comparison calls two arms different that are alike: an A/A test with real policies of the toy world.

    python benchmarks/alike_arms.py make FOLDER [--policies 40] [key=value …]   some ten minutes of one core
    python benchmarks/alike_arms.py ask FOLDER                                  some minutes

`make` trains policies of one arm that differ by `arms.seed` alone, from the same labels and preference models, and has
each answer the held-out prompts, as the evaluation does; then the first of them answers again and again, by other
random numbers. `ask` makes pairs of arms of them, S seeds each, and compares them as a comparison does, by
`morlaif.report.comparison.aggregated`, judged by the toy world's hidden utility:

- trained: the 2 S policies of a pair are drawn without replacement. Pairs share policies, so the error of their rate is
  by leaving out each policy in turn (jackknife), not by the number of pairs;
- answered: the seeds of an arm are further answers of one and the same policy, no answer is in two pairs, and the error
  is binomial.

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
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from morlaif.compose import look_ahead, register
from morlaif.data.records import load_split, prompt_id
from morlaif.evaluation.aggregate import Cell, verdict
from morlaif.evaluation.judges import side, utilities
from morlaif.evaluation.matrix import WinMatrix
from morlaif.evaluation.policies import draws, respond
from morlaif.models.load import load_policy
from morlaif.planning.plan import plan
from morlaif.report.comparison.aggregated import Judgements, against
from morlaif.statistics import Array, Resampling, bootstrap_crossed, wilson
from morlaif.units.job import Job, gather
from morlaif.units.store import Store
from morlaif.variance import crossed

ARM = [
    "arms.select=[morlaif]",
    "principles.count=4",
    "ppo.steps=4",
    "ppo.eval_every=0",
    "ppo.eval_prompts=0",
    "ppo.samples=0",
]
SEEDS, PAIRS, ANSWERED_PROMPTS, LEVEL = (3, 5), 200, 50, 0.95
HOW: Resampling = {"seed": 0, "resamples": 1000, "confidence": LEVEL}


# --- policies and their answers ---------------------------------------------------------------------------------------


def make(args: argparse.Namespace) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    words = [*ARM, *args.overrides]
    subprocess.run([sys.executable, "-m", "morlaif", *words, "stages=[weigh]"], check=True)
    register()
    torch.set_num_threads(1)
    trained = []
    for seed in range(args.policies):
        file = args.folder / f"trained-{seed}.npy"
        if not file.exists():
            np.save(file, _trained([*words, f"arms.seed={seed}"]))
        trained.append(np.load(file))
        print(f"policy {seed}: utility {trained[-1].mean():.3f}", flush=True)
    np.save(args.folder / "trained.npy", np.array(trained))
    most = 2 * min(SEEDS) * PAIRS
    answered = [row for row, _ in zip(_answered([*words, "arms.seed=0"]), range(most), strict=False)]
    np.save(args.folder / "answered.npy", np.array(answered))


def _trained(words: Sequence[str]) -> Array:
    """Utilities (N,) of the answers of the policy that these words train."""
    with tempfile.TemporaryDirectory() as folder:
        policy, prompts, config = _policy(words, Path(folder))
        held_out = config.seed_of("eval")
        return utilities(prompts, respond(partial(load_policy, policy), prompts, config.eval, seed=held_out).texts)


def _answered(words: Sequence[str]) -> Iterator[Array]:
    """Utilities (N,) of each further answers of one policy to the first prompts."""
    with tempfile.TemporaryDirectory() as folder:
        policy, prompts, config = _policy(words, Path(folder))
        prompts, times = prompts[:ANSWERED_PROMPTS], 10  # at once: a larger batch samples almost for free
        many = config.eval.model_copy(update={"batch_size": times * len(prompts)})
        for made in draws(*load_policy(policy), prompts * times, many, seed=1):
            yield from utilities(prompts * times, made.texts).reshape(times, -1)


def _policy(words: Sequence[str], folder: Path) -> tuple[Path, list, object]:
    """The policy's folder, the prompts of the evaluation, and the config."""
    flags = Namespace(overrides=list(words), config_dir=None, multirun=False)
    config = look_ahead(flags)[0][0].config
    unit, store = plan(config).by_name["ppo/morlaif"], Store(config.paths.store)
    inputs = {need.name: store.folder(need) for need in unit.needs}
    out, keep = folder / "out", folder / "keep"
    out.mkdir()
    keep.mkdir()
    job = Job(
        unit.stage.name, unit.name, unit.digest, unit.reads, gather(unit.stage.needs, inputs), out, keep, store.ledger,
        unit.seed, config.hardware, lambda *_: None,
    )  # fmt: skip
    importlib.import_module("morlaif.stages.work.ppo").build(job)
    held_out = {prompt_id(e.messages): e.messages for e in load_split(inputs["data"], "eval")}
    return out, list(held_out.values())[: config.eval.prompts], config


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
    trained, answered = (np.load(args.folder / f"{name}.npy") for name in ("trained", "answered"))
    rng = np.random.default_rng(0)
    spread = trained.mean(1).std(ddof=1)
    print(f"{len(trained)} policies, mean utility {trained.mean():.2f}, deviation between them {spread:.3f}")
    rates = [side(a - b).mean() for a, b in itertools.combinations(trained, 2)]
    print(f"win rate of one over another: deviation {np.std(rates):.3f}, from {min(rates):.3f} to {max(rates):.3f}")
    print(
        "\n| arms alike | seeds | pairs | called different (verdicts) | crossed bootstrap | one seed, prompts alone |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for seeds in SEEDS:
        drawn = [rng.permutation(len(trained))[: 2 * seeds] for _ in range(args.pairs)]
        found = [compared(trained[list(places)], seeds, k % 10 == 0) for k, places in enumerate(drawn)]
        cells = [_jackknife([one[kind] for one in found], drawn, len(trained)) for kind in found[0]]
        print(f"| trained | {seeds} | {args.pairs} | {' | '.join(cells)} |", flush=True)
    seeds = min(SEEDS)
    found = [compared(values, seeds) for values in answered.reshape(-1, 2 * seeds, answered.shape[1])]
    cells = []
    for kind in found[0]:
        share = wilson(float(np.mean([one[kind] for one in found])), len(found), LEVEL)
        cells.append(f"{100 * share.value:.1f} % \\[{100 * share.low:.1f}, {100 * share.high:.1f}\\]")
    print(f"| answered | {seeds} | {len(found)} | {' | '.join(cells)} |")


def _jackknife(called: Sequence[bool | None], drawn: Sequence[Array], policies: int) -> str:
    """Of the pairs that were asked. Of few of them the error would be that of which were drawn, and is left out."""
    asked = np.array([flag for flag in called if flag is not None])
    if len(asked) < len(called):
        return f"{100 * asked.mean():.1f} %"
    without = [asked[[k not in places for places in drawn]].mean() for k in range(policies)]
    error = float(np.sqrt((policies - 1) / policies * np.square(np.array(without) - np.mean(without)).sum()))
    return f"{100 * asked.mean():.1f} % ± {100 * 1.96 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, action in (("make", make), ("ask", ask)):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.set_defaults(action=action)
        if name == "make":
            command.add_argument("--policies", type=int, default=40)
            command.add_argument("overrides", nargs="*")
        else:
            command.add_argument("--pairs", type=int, default=10000)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
