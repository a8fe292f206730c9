"""A generative reward model (`pm=genrm`) and a Bradley–Terry one, on the same labels, at home and abroad.

    python benchmarks/genrm.py FOLDER [key=value …] --seeds 0 1 2 3 4

Both learn the labels of pairs that the SFT model has sampled (`--home`), and both learn those of the data's own pairs
(`--abroad`); each then orders the held-out pairs of both, so that every model is asked once where it is at home and
once where responses come from elsewhere. On the toy world by default, with the judge's label without a principle. On a
model of yours, with people's labels of two sets of dialogues:

    python benchmarks/genrm.py FOLDER --models pm=lora pm=genrm --pm rlhf --home data.path=helpful.jsonl.gz \
        --abroad data.path=harmless.jsonl.gz --seeds 0 experiment=local model.path=… …

Prints, over seeds, how often the label is met, the difference by seed with its 95 % t-interval (one seed: a bootstrap
interval over pairs), and the time that each took to learn and to read a pair. `FOLDER/found.json` has all of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy import stats

from morlaif.compose import compose_all, register
from morlaif.data.records import load_pairs
from morlaif.feedback.records import load_verdicts
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.settings import PMSettings
from morlaif.statistics import agreement, bootstrap_mean
from morlaif.units.store import Store
from morlaif.usage import read_flags

PLACES = ("home", "abroad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--vary", default="seed", help="what a seed varies; `seed` makes another toy world")
    parser.add_argument("--models", nargs=2, default=["pm=toy", "pm=toy_genrm"], help="Bradley–Terry, generative")
    parser.add_argument("--pm", default="rlaif", help="the arm whose one preference model learns")
    parser.add_argument("--home", nargs="+", default=["respond=toy"])
    parser.add_argument("--abroad", nargs="+", default=["respond=pairs"])
    args = parser.parse_intermixed_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = [row for seed in args.seeds for row in of_seed(args, seed)]
    (args.folder / "found.json").write_text(json.dumps(rows, indent=1) + "\n")
    table(rows, args.models)


def of_seed(args: argparse.Namespace, seed: int) -> list[dict]:
    """What each model that learnt at each place makes of both places' held-out pairs."""
    common = [
        *args.overrides, f"{args.vary}={seed}", f"arms.select=[{args.pm}]", f"paths.store={args.folder / 'store'}",
        f"paths.runs={args.folder / 'runs'}",
    ]  # fmt: skip
    places = dict(zip(PLACES, (args.home, args.abroad), strict=True))
    units = {(p, model): built([*common, *words, model]) for p, words in places.items() for model in args.models}
    found = []
    for (learnt, model), (own, settings) in units.items():
        seconds = json.loads((own["pm"] / "manifest.json").read_text())["seconds"]
        bank = PreferenceBank.load({"overall": own["pm"]}, own["sft"] / "model", settings=settings)
        for asked in PLACES:
            met, took = read(bank, units[asked, model][0])
            found.append({
                "seed": seed, "model": model, "learnt": learnt, "asked": asked, "met": met, "seconds": seconds,
                "seconds_a_pair": took / len(met),
            })  # fmt: skip
    return found


def built(words: list[str]) -> tuple[dict[str, Path], PMSettings]:
    """The folders of a run's units that its preference model is of, once they are there, by stage; and its settings."""
    subprocess.run([sys.executable, "-m", "morlaif", *words, "stages=[pm]"], check=True)
    register()
    config = compose_all(read_flags([*words, "stages=[pm]"]))[0][0].config
    store, units = Store(config.paths.store), plan(config, Contents(config.paths.store)).units
    return {unit.stage.name: store.folder(unit) for unit in units}, config.pm


def read(bank: PreferenceBank, own: dict[str, Path]) -> tuple[list[float], float]:
    """Whether the model orders each held-out pair as its label does (a tie: .5), and the seconds that it took."""
    pairs = {pair.id: pair for pair in load_pairs(own["respond"], "eval")}
    labels = {v.pair_id: v.p_first for v in load_verdicts(own["feedback"], "eval") if v.valid and v.p_first != 0.5}
    asked = [pairs[one] for one in labels]
    start = time.perf_counter()
    first, second = (
        bank.score([pair.messages for pair in asked], [getattr(pair, side) for pair in asked])[:, 0].numpy()
        for side in ("first", "second")
    )
    took = time.perf_counter() - start
    return agreement(first - second, np.array(list(labels.values())) - 0.5).tolist(), took


def table(rows: list[dict], models: list[str]) -> None:
    seeds = sorted({row["seed"] for row in rows})
    print("| learnt from, asked about | Bradley–Terry | generative | difference |\n|---|--:|--:|--:|")
    for learnt in PLACES:
        for asked in PLACES:
            met = [
                [row["met"] for row in rows if (row["model"], row["learnt"], row["asked"]) == (model, learnt, asked)]
                for model in models
            ]
            shown = [f"{np.mean([np.mean(one) for one in own]):.3f}" for own in met]
            apart = [np.array(b) - np.array(a) for a, b in zip(*met, strict=True)]
            print(f"| {learnt}, {asked} | {' | '.join(shown)} | {interval(apart)} |")
    for model in models:
        own = [row for row in rows if row["model"] == model]
        learnt, asked = (np.mean([row[key] for row in own]) for key in ("seconds", "seconds_a_pair"))
        print(f"{model}: {learnt:.0f} s to learn, {asked:.3f} s to read a pair; {len(seeds)} seeds")


def interval(apart: list[np.ndarray]) -> str:
    means = np.array([one.mean() for one in apart])
    if len(means) == 1:
        found = bootstrap_mean(apart[0], seed=0)
        return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}] over pairs"
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return f"{means.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main()
