"""How often intervals over seeds cover the truth, and how often two arms alike are called different.

    python benchmarks/seed_intervals.py [--experiments 2000] [--seed 0]     # some ten minutes of one core

An experiment has S seeds of two arms on 200 prompts. Behind a verdict is a latent advantage: the arm's, plus normal
effects of the seed and of the prompt, plus noise of each order of presentation, of which half is shared; its sign in
either order is a win or a loss, and the mean over both orders the outcome (1, ½ or 0), as a judge's is. The truth is
the expected rate over all seeds and all prompts. The table has the deviation of the rate between seeds, as the effect
of the seed makes it; `morlaif sweep=seeds` measures it on one's own runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from morlaif.statistics import Array, bootstrap_crossed
from morlaif.variance import Mean, Seed, crossed, holm, over_seeds

PROMPTS, OF_PROMPT, NOISE = 200, 0.6, 1.0
SEEDS = (3, 5, 10)
OF_SEED = (0.08, 0.16, 0.3)  # of the latent advantage: deviations of the rate of about .03, .05 and .10
RATES = {"even": 0.0, "80 %": 1.0}


@dataclass(frozen=True)
class World:
    seeds: int
    of_seed: float
    advantage: float = 0.0

    @property
    def rate(self) -> float:
        """What the outcome is expected to be."""
        return float(norm.cdf(self.advantage / np.sqrt(self.of_seed**2 + OF_PROMPT**2 + NOISE**2)))

    @property
    def deviation(self) -> float:
        """Of a seed's own rate about it, to first order."""
        scale = np.sqrt(OF_PROMPT**2 + NOISE**2)
        return float(norm.pdf(self.advantage / scale) / scale * self.of_seed)

    def outcomes(self, rng: np.random.Generator) -> Array:
        """(S, N)."""
        return verdicts(rng, self.advantage + rng.normal(0, self.of_seed, (self.seeds, 1)))


def verdicts(rng: np.random.Generator, advantage: Array) -> Array:
    """Outcomes (S, N) on prompts drawn anew; `advantage` (S, 1)."""
    latent = advantage + rng.normal(0, OF_PROMPT, PROMPTS)
    shape = latent.shape
    shared = rng.normal(0, NOISE * np.sqrt(0.5), shape)
    orders = [latent + shared + rng.normal(0, NOISE * np.sqrt(0.5), shape) for _ in range(2)]
    return (np.sign(orders).mean(axis=0) + 1) / 2


def of_each_kind(x: Array) -> dict[str, tuple[float, float]]:
    """Bounds of each interval of the mean of x (S, N)."""
    mean, t = crossed(x, share=True).interval(), over_seeds(x.mean(axis=1), share=True).interval()
    boot = bootstrap_crossed(x.T, seed=0, resamples=1000)
    return {name: (i.low, i.high) for name, i in (("crossed", mean), ("t over seeds", t), ("bootstrap", boot))}


def coverage(experiments: int, rng: np.random.Generator) -> Iterator[str]:
    yield "| seeds | deviation between seeds | rate | crossed t (verdicts) | t over seeds | crossed bootstrap |"
    yield "|---|---|---|---|---|---|"
    for seeds in SEEDS:
        for of_seed in OF_SEED:
            for name, advantage in RATES.items():
                world = World(seeds, of_seed, advantage)
                drawn = [of_each_kind(world.outcomes(rng)) for _ in range(experiments)]
                cells = []
                for kind in drawn[0]:
                    bounds = np.array([one[kind] for one in drawn])
                    inside = (bounds[:, 0] <= world.rate) & (world.rate <= bounds[:, 1])
                    cells.append(f"{100 * inside.mean():.1f} % (± {np.nanmean(np.ptp(bounds, axis=1)) / 2:.3f})")
                yield f"| {seeds} | {world.deviation:.3f} | {name} | {' | '.join(cells)} |"


def alike(experiments: int, rng: np.random.Generator) -> Iterator[str]:
    """One arm against its twin: nothing is better, and every verdict in words is false."""
    yield "| seeds | deviation of seeds | crossed t (verdicts) | t over seeds | crossed bootstrap | prompts alone |"
    yield "|---|---|---|---|---|---|"
    for seeds in SEEDS:
        for of_seed in OF_SEED:
            world = World(seeds, of_seed)
            called: dict[str, list[bool]] = {}
            for _ in range(experiments):
                x = world.outcomes(rng)
                bounds = of_each_kind(x)
                one = crossed(x[:1], share=True).interval()
                for kind, (low, high) in {**bounds, "prompts": (one.low, one.high)}.items():
                    called.setdefault(kind, []).append(not low <= 0.5 <= high)
            cells = " | ".join(f"{100 * np.mean(found):.1f} %" for found in called.values())
            yield f"| {seeds} | {world.deviation:.3f} | {cells} |"


def tables(experiments: int, rng: np.random.Generator) -> Iterator[str]:
    """Tables of arms that are all alike: in how many any comparison is called better or worse."""
    yield "| arms | comparisons | seeds | any verdict, Holm | any verdict, not adjusted |"
    yield "|---|---|---|---|---|"
    for arms, seeds in ((3, 5), (6, 5), (6, 10)):
        found = []
        for _ in range(experiments // 4):
            strength = rng.normal(0, OF_SEED[1] / np.sqrt(2), (arms, seeds, 1))
            pairs = [(i, j) for i in range(arms) for j in range(i)]
            p = [crossed(verdicts(rng, strength[i] - strength[j]), share=True).p_value(0.5) for i, j in pairs]
            found.append((min(holm(p)) < 0.05, min(p) < 0.05))
        both = " | ".join(f"{100 * share:.1f} %" for share in np.mean(found, axis=0))
        yield f"| {arms} | {len(pairs)} | {seeds} | {both} |"


def sources(experiments: int, rng: np.random.Generator) -> Iterator[str]:
    """Seeds of models crossed with seeds of PPO: an interval that knows it, and one that takes rows as independent."""
    yield "| seeds of the models × of PPO | deviation of models, of PPO | source by source | as if independent |"
    yield "|---|---|---|---|"
    for models, ppo, of_models in ((3, 3, 0.2), (5, 3, 0.2), (3, 3, 0.0)):
        names: list[Seed] = [(f"pm {i}", f"ppo {j}") for i in range(models) for j in range(ppo)]
        covered, made = [], World(1, float(np.hypot(of_models, 0.1)))
        for _ in range(experiments):
            effects = rng.normal(0, of_models, (models, 1)) + rng.normal(0, 0.1, (1, ppo))
            x = verdicts(rng, effects.reshape(-1, 1))
            means: list[Mean] = [crossed(x, seeds=names, share=True), crossed(x, share=True)]
            covered.append([i.low <= made.rate <= i.high for i in (mean.interval() for mean in means)])
        both = " | ".join(f"{100 * share:.1f} %" for share in np.mean(covered, axis=0))
        each = [World(1, deviation).deviation for deviation in (of_models, 0.1)]
        yield f"| {models} × {ppo} | {each[0]:.3f}, {each[1]:.3f} | {both} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    for title, rows in (
        ("Coverage of 95 % intervals, and their mean half-widths", coverage),
        ("Two arms alike: how often one is called better or worse", alike),
        ("Tables of arms alike", tables),
        ("Two sources of seeds, crossed: coverage", sources),
    ):
        print(f"### {title}\n", *rows(args.experiments, rng), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
