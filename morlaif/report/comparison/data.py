"""What a comparison is made of: runs, the different policies and preference models among them, and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from morlaif.errors import Damaged
from morlaif.files import read_json
from morlaif.report.comparison.labels import Labels
from morlaif.report.data import SINGLE, read_lines

SFT = "sft"


@dataclass(frozen=True)
class Run:
    """One finished run: its settings, the digests of its units, and what its `evaluate` found."""

    name: str  # of its folder
    config: Mapping[str, Any]  # its settings, flat: dotted key -> value
    units: Mapping[str, str]  # unit -> digest
    results: Mapping[str, Any]
    details: Mapping[str, Any]
    curves: Mapping[str, Sequence[Mapping[str, float]]]  # PPO steps of each arm
    human: Mapping[str, Any] | None  # human.json: what raters said, by comparison

    @property
    def arms(self) -> list[str]:
        return list(self.details["arms"])

    @property
    def principles(self) -> list[str]:
        return list(self.details["principles"])

    def role(self, arm: str) -> str:
        """Results call the first arm `policy`."""
        return "policy" if arm == self.arms[0] else arm

    def win_rate(self, arm: str, other: str) -> Mapping[str, Any] | None:
        return self.results["win_rate"].get(f"{self.role(arm)}_vs_{other}")


@dataclass(frozen=True)
class Policy:
    """A policy, found in one run or in several that share it."""

    key: str  # "ppo/<digest>", "sft/<digest>" or "outside/<path or hub id>"
    arm: str  # "sft", "multi", "single", or the name of one from outside
    runs: tuple[Run, ...]
    label: str = ""

    @property
    def run(self) -> Run:
        """One of its runs: it is the same policy in all."""
        return self.runs[0]


@dataclass(frozen=True)
class Models:
    """The preference models of one run, or of several of which this one has the most."""

    run: Run
    runs: tuple[Run, ...]
    label: str = ""


@dataclass(frozen=True)
class Comparison:
    runs: Sequence[Run]
    judged: Mapping[str, Any] = field(default_factory=dict)  # the win matrix and strengths, by policy key

    @cached_property
    def labels(self) -> Labels:
        return Labels([run.config for run in self.runs])

    @cached_property
    def policies(self) -> list[Policy]:
        """Every different policy once: those of many preference models, then the baselines, then SFT."""
        found: dict[str, tuple[str, list[Run]]] = {}
        for arm in ("multi", SINGLE, SFT):
            for run in self.runs:
                if arm == SFT or arm in run.arms:
                    digest = run.units["sft"] if arm == SFT else run.units[f"ppo/{arm}"]
                    found.setdefault(f"{'sft' if arm == SFT else 'ppo'}/{digest}", (arm, []))[1].append(run)
        for run in self.runs:  # others, which the runs were only compared with
            for name, where in (run.details.get("policies") or {}).items():
                found.setdefault(f"outside/{where}", (name, []))[1].append(run)
        made = []
        for key, (arm, runs) in found.items():
            peers = [own for other, own in found.values() if other == arm]
            made.append(Policy(key, arm, tuple(runs), self._policy_label(arm, runs, peers)))
        return made

    def _policy_label(self, arm: str, runs: Sequence[Run], peers: Sequence[Sequence[Run]]) -> str:
        told = self.labels.tell(*([[run.config for run in own] for own in (runs, *peers)]))
        if arm not in (SFT, "multi", SINGLE):
            return arm
        if arm == "multi":
            return told or _scalarizer(runs[0])
        rated = runs[0].config.get("reward.kind") == "judge"
        plain = "SFT" if arm == SFT else "single rating" if rated else "single PM"
        return f"{plain} · {told}" if told else plain

    @cached_property
    def aligned(self) -> list[Policy]:
        """Those that the runs trained by PPO."""
        return [policy for policy in self.policies if policy.arm in ("multi", SINGLE)]

    @cached_property
    def models(self) -> list[Models]:
        """Every different set of preference models once; a run that uses some of another's belongs to it."""
        sets: list[tuple[dict[str, str], list[Run]]] = []
        for run in sorted(self.runs, key=lambda run: -len(run.details["names"])):
            own = {name: digest for name, digest in run.units.items() if name.startswith("pm/")}
            for known, runs in sets:
                if all(known.get(name) == digest for name, digest in own.items()):
                    runs.append(run)
                    break
            else:
                sets.append((own, [run]))
        peers = [[run.config for run in runs] for _, runs in sets]
        return [
            Models(runs[0], tuple(runs), self.labels.tell([run.config for run in runs], *peers) or "preference models")
            for _, runs in sets
        ]

    @property
    def principles(self) -> list[str]:
        """Of all runs, in the order of the run that has the most."""
        return list(dict.fromkeys(name for models in self.models for name in models.run.principles))

    @property
    def confidence(self) -> float:
        return self.runs[0].details["confidence"]


def load(runs: Sequence[Mapping[str, Any]], inputs: Mapping[str, Path]) -> list[Run]:
    """The runs of a comparison, each `{name, config, units, human}`; `inputs` are folders by `<stage>/<digest>`."""
    made = []
    for run in runs:
        folder = inputs[f"evaluate/{run['units']['evaluate']}"]
        details = _read(folder / "details.json")
        policies = {arm: inputs[f"ppo/{run['units'][f'ppo/{arm}']}"] for arm in details["arms"]}
        curves = {arm: read_lines(policy / "curve.jsonl") for arm, policy in policies.items()}
        results = _read(folder / "results.json")
        made.append(Run(run["name"], run["config"], run["units"], results, details, curves, run["human"]))
    return made


def _scalarizer(run: Run) -> str:
    return str(run.config.get("scalarizer.name", "multi")).replace("_", "-")


def _read(path: Path) -> Any:
    return read_json(path, of=dict, failure=Damaged)
