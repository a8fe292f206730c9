"""What a comparison is made of: runs, the different policies and preference models among them, and their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from morlaif.evaluation import results
from morlaif.evaluation.aggregate import Aggregate, Cell
from morlaif.evaluation.fronts import FRONT, WayFront
from morlaif.evaluation.results import SFT, ArmFacts, Estimate, Rate, RunDetails, RunResults, Yardstick, parts
from morlaif.evaluation.wins import versus
from morlaif.report.comparison.labels import RunLabels, is_seed, shown
from morlaif.report.data import read_lines, titles, words
from morlaif.variance import over_seeds


@dataclass(frozen=True)
class ComparedRun:
    """One finished run: its settings, the digests of its units, and what its `evaluate` found."""

    name: str  # of its folder
    config: Mapping[str, Any]  # its settings, flat: dotted key -> value
    units: Mapping[str, str]  # unit -> digest
    results: RunResults
    details: RunDetails
    curves: Mapping[str, Sequence[Mapping[str, float]]]  # a row for each step of each arm's training
    human: Mapping[str, Any] | None  # human.json: the raters' answers, by comparison
    fronts: Mapping[str, WayFront] = field(default_factory=dict)  # by way
    pm: Mapping[str, float] | None = None  # what its preference models took, where the runs have them on several bases

    @property
    def arms(self) -> Mapping[str, ArmFacts]:
        return self.details.arms

    @property
    def policy(self) -> str:
        """The first arm; the others are what it is compared with."""
        return next(iter(self.arms))

    @property
    def combined(self) -> str | None:
        """The first arm whose reward has a part for each principle."""
        return next((name for name, arm in self.arms.items() if arm.of_principles), None)

    def labels_of(self, keys: Sequence[str]) -> dict[str, str]:
        return {key: shown(self.config.get(key)) for key in keys}

    @property
    def principles(self) -> list[str]:
        return self.details.principles

    @property
    def scalarizer(self) -> str:
        return str(self.config.get("scalarizer.name"))

    def win_rate(self, first: str, second: str) -> Rate | None:
        """Whichever way round the run compared them."""
        found = self.results.win_rate
        other = found.get(versus(second, first))
        return found.get(versus(first, second)) or (other and turned(other))


@dataclass(frozen=True)
class Policy:
    """A policy, found in one run or in several that share it."""

    key: str  # "ppo/<digest>" or of another method, "sft/<digest>" or "outside/<path or hub id>"
    name: str  # "sft", that of an arm, or of one from outside
    runs: tuple[ComparedRun, ...]
    label: str = ""

    @property
    def run(self) -> ComparedRun:
        """One of its runs: it is the same policy in all."""
        return self.runs[0]

    @property
    def arm(self) -> ArmFacts | None:
        """None: the runs did not align it."""
        return self.run.arms.get(self.name)

    @property
    def of_principles(self) -> bool:
        return self.arm is not None and self.arm.of_principles

    @property
    def objective(self) -> str:
        """Its scalarizer; "single" where there is one score for the whole."""
        return self.run.scalarizer if self.of_principles else "single"


@dataclass(frozen=True)
class Arm:
    """A cell with its policies, one for each seed; it has the same colour in all figures."""

    cell: Cell
    colour: int
    policies: tuple[Policy, ...]

    @property
    def policy(self) -> Policy:
        """Of its first seed."""
        return self.policies[0]

    def mean(self, read: Callable[[Policy], Estimate | None], confidence: float, **how: bool) -> Estimate | None:
        """Over its seeds, as `mean_of`."""
        return mean_of([read(policy) for policy in self.policies], confidence, **how)


def mean_of(found: Sequence[Estimate | None], confidence: float, *, share: bool = False) -> Estimate | None:
    """Of several seeds' estimates with Student's t interval, a `share` within 0 and 1; of one, or of equal ones, it."""
    known = [one for one in found if one is not None and one.value is not None]
    if len(known) < 2:
        return known[0] if known else None
    values = [one.value for one in known if one.value is not None]
    if len(set(values)) == 1:  # what does not depend on the seed
        return known[0]
    value, low, high, _ = parts(over_seeds(values, share=share).interval(confidence))
    return Estimate(value, low, high, len(known))


@dataclass(frozen=True)
class Models:
    """The preference models of one run, or of several of which this one has the most."""

    run: ComparedRun
    runs: tuple[ComparedRun, ...]
    label: str = ""


@dataclass(frozen=True)
class JudgedPair(Rate):
    """The win rate of one policy over another, by their keys."""

    first: str
    second: str
    yardstick: str = ""  # by which; see `Judged.yardsticks`


@dataclass(frozen=True)
class Judged:
    """Every policy against every other, by one judge."""

    rates: Sequence[JudgedPair] = ()
    others: Sequence[JudgedPair] = ()  # by other judges: in no table with `rates`
    yardsticks: Mapping[str, Yardstick] = field(default_factory=dict)  # of both
    doubt: str = ""  # why the judge's rates bear no verdict in words
    strengths: Mapping[str, Estimate] = field(default_factory=dict)  # by the key of a cell's first policy
    note: str = ""  # how, or why not
    hypervolume: Mapping[str, float] = field(default_factory=dict)  # by policy key


@dataclass(frozen=True)
class ComparedRuns:
    runs: Sequence[ComparedRun]
    judged: Judged = field(default_factory=Judged)
    aggregate: Aggregate = field(default_factory=Aggregate)  # over seeds

    @cached_property
    def labels(self) -> RunLabels:
        return RunLabels([run.config for run in self.runs])

    @cached_property
    def policies(self) -> list[Policy]:
        """Every different policy once: those rewarded by principles, then the other arms, SFT, and those from
        outside."""
        found: dict[str, tuple[str, list[ComparedRun]]] = {}
        for name in self._arms:
            for run in self.runs:
                if name in run.arms:
                    method = run.arms[name].method
                    found.setdefault(f"{method}/{run.units[f'{method}/{name}']}", (name, []))[1].append(run)
        for run in self.runs:
            found.setdefault(f"sft/{run.units['sft']}", (SFT, []))[1].append(run)
        for run in self.runs:
            for name, where in run.details.policies.items():
                found.setdefault(f"outside/{where}", (name, []))[1].append(run)
        made = []
        for key, (name, runs) in found.items():
            peers = [own for other, own in found.values() if other == name]
            made.append(Policy(key, name, tuple(runs), self.policy_label(name, runs, peers)))
        twice = Counter(policy.label for policy in made)
        return [replace(p, label=f"{p.label} · {p.name}") if twice[p.label] > 1 else p for p in made]

    @property
    def _arms(self) -> list[str]:
        """Those rewarded by principles first."""
        found: dict[str, ArmFacts] = {}
        for run in self.runs:
            found = {**run.arms, **found}
        return sorted(found, key=lambda name: not found[name].of_principles)

    def policy_label(
        self, name: str, runs: Sequence[ComparedRun], peers: Sequence[Sequence[ComparedRun]], but: Sequence[str] = ()
    ) -> str:
        """What tells a policy of some runs apart from those of its peers, without the keys in `but`."""
        differs = self.labels.distinguish(*([[run.config for run in own] for own in (runs, *peers)]), but=but)
        arm = runs[0].arms.get(name)
        if arm is None and name != SFT:
            return name
        if arm is not None and arm.of_principles:
            return differs or arm.title
        plain = titles(runs[0].arms)[name]
        return f"{plain} · {differs}" if differs else plain

    @cached_property
    def aligned(self) -> list[Policy]:
        """Those that the runs trained."""
        return [policy for policy in self.policies if policy.arm is not None]

    @cached_property
    def arms(self) -> list[Arm]:
        """Policies that differ by seed alone, as one."""
        known = {policy.key: policy for policy in self.policies}
        return [
            Arm(cell, k, tuple(known[key] for key in dict.fromkeys(cell.policies.values())))
            for k, cell in enumerate(self.aggregate.cells)
        ]

    @property
    def trained(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.policy.arm is not None]

    @cached_property
    def others(self) -> dict[str, str]:
        """Arms that runs compare their policy with, and what they are called within a sentence."""
        found: dict[str, dict[str, None]] = {}
        for run in self.runs:
            for name in list(run.arms)[1:]:
                found.setdefault(name, {})[run.arms[name].named] = None
        return {name: next(iter(named)) if len(named) == 1 else name for name, named in found.items()}

    @cached_property
    def whole(self) -> dict[str, str]:
        """Preference models of no single principle, and what they are called."""
        return {
            model: arm.title
            for run in self.runs
            for arm in run.arms.values()
            for model in arm.models
            if model in run.details.whole
        }

    def model_name(self, name: str) -> str:
        return self.whole.get(name, words(name))

    @cached_property
    def models(self) -> list[Models]:
        """Every different set of preference models once; a run that uses some of another's belongs to it."""
        sets: list[tuple[dict[str, str], list[ComparedRun]]] = []
        for run in sorted(self.runs, key=lambda run: -len(run.details.names)):
            own = {name: digest for name, digest in run.units.items() if name.startswith("pm/")}
            for known, runs in sets:
                if all(known.get(name) == digest for name, digest in own.items()):
                    runs.append(run)
                    break
            else:
                sets.append((own, [run]))
        peers = [[run.config for run in runs] for _, runs in sets]
        return [
            Models(
                runs[0],
                tuple(runs),
                self.labels.distinguish([run.config for run in runs], *peers) or "preference models",
            )
            for _, runs in sets
        ]

    @cached_property
    def model_sets(self) -> list[tuple[str, list[Models]]]:
        """Those that differ by seed alone together, under a name for all of them."""
        seeds = [key for key in self.labels.keys if is_seed(key)]
        found: dict[str, list[Models]] = {}
        peers = [[run.config for run in models.runs] for models in self.models]
        for models, own in zip(self.models, peers, strict=True):
            found.setdefault(self.labels.distinguish(own, *peers, but=seeds) or "preference models", []).append(models)
        return list(found.items())

    @property
    def principles(self) -> list[str]:
        """Of all runs, in the order of the run that has the most."""
        return list(dict.fromkeys(name for models in self.models for name in models.run.principles))

    @property
    def confidence(self) -> float:
        return self.runs[0].details.confidence


def load(runs: Sequence[Mapping[str, Any]], inputs: Mapping[str, Path]) -> list[ComparedRun]:
    """The runs of a comparison, each `{name, config, units, human}`; `inputs` are folders by `<stage>/<digest>`."""
    made = []
    for run in runs:
        folder = inputs[f"evaluate/{run['units']['evaluate']}"]
        details = results.load(RunDetails, folder / "details.json")
        policies = {
            name: inputs[f"{arm.method}/{run['units'][f'{arm.method}/{name}']}"] for name, arm in details.arms.items()
        }
        curves = {arm: read_lines(policy / "curve.jsonl") for arm, policy in policies.items()}
        found = results.load(RunResults, folder / "results.json")
        own = (run["config"], run["units"], found, details, curves, run["human"], _fronts(run, inputs), run.get("pm"))
        made.append(ComparedRun(run["name"], *own))
    return made


def _fronts(run: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, WayFront]:
    """Those that the run has finished."""
    units = {name.removeprefix("front/"): f"front/{digest}" for name, digest in run["units"].items()
             if name.startswith("front/")}  # fmt: skip
    return {way: results.load(WayFront, inputs[key] / FRONT) for way, key in units.items() if key in inputs}


def turned(rate: Rate) -> Rate:
    """The same seen from the other side."""
    value, low, high = (None if x is None else 1 - x for x in (rate.value, rate.high, rate.low))
    return Rate(value, low, high, rate.n, rate.loss, rate.tie, rate.win, rate.flip_rate, rate.invalid)
