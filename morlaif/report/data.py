"""What a report is made of, read from the artifacts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.errors import Damaged, UserError
from morlaif.evaluation import results
from morlaif.evaluation.fronts import FRONT, GRID, Fronts, WayFront, against
from morlaif.evaluation.results import CEILING, SFT, ArmFacts, RunDetails, RunResults
from morlaif.files import read_json, read_json_lines
from morlaif.online.curves import BY_N
from morlaif.statistics import Array, Resampling

DRAWN = 5  # arms in a figure, at most


@dataclass(frozen=True)
class RunData:
    """Everything a page shows, except for the record of the run itself, which is known when the run closes."""

    config: Mapping[str, Any]  # the run's resolved config
    results: RunResults
    details: RunDetails
    samples: list[dict[str, Any]]  # samples.jsonl of evaluate
    curves: Mapping[str, list[dict[str, float]]]  # a row for each step of each arm's training
    diagnostics: Mapping[str, list[dict[str, Any]]]  # the lists and tables of those steps, where the method leaves them
    by_n: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # of arms that are the best of n: other n
    fronts: Fronts | None = None  # policies for many weights, where the run has any

    @property
    def names(self) -> list[str]:
        """The preference models, the principles' first."""
        return self.details.names

    @property
    def principles(self) -> list[str]:
        """Those that have a preference model."""
        return [name for name in self.names if name in self.details.principles]

    @property
    def whole(self) -> list[str]:
        """The preference models of no single principle."""
        return self.details.whole

    @property
    def arms(self) -> list[str]:
        return list(self.details.arms)

    @property
    def policy(self) -> str:
        """The first arm; the others are what it is compared with."""
        return self.arms[0]

    @property
    def arm(self) -> ArmFacts:
        return self.details.arms[self.policy]

    @property
    def many(self) -> bool:
        """Whether there are more arms than a figure can show apart: a leaderboard shows them, figures the first few."""
        return len(self.arms) > DRAWN

    @property
    def drawn(self) -> list[str]:
        """The arms of figures: all; or of many the first of the policy's method, whose steps are alike."""
        if not self.many:
            return self.arms
        return [arm for arm in self.arms if self.details.arms[arm].method == self.arm.method][:DRAWN]

    @property
    def rewarded(self) -> list[str]:
        """The columns of the policy's reward, as far as its method tells of them."""
        first = next(iter(self.curves[self.policy]), {})
        return [key.removeprefix("score/") for key in first if key.startswith("score/")]

    @property
    def reward(self) -> str:
        """What kind of thing the policy learnt from."""
        kind: str = self.config.get("reward", {}).get("kind", "pm")
        return kind

    @property
    def trained_by(self) -> str:
        """What the page calls the training of its arms, whose steps are those of a method each."""
        return "PPO" if all(arm.method == "ppo" for arm in self.details.arms.values()) else "Training"

    @property
    def implicit(self) -> list[str]:
        """Labels of the arms whose reward is that of their policy itself: they learn from pairs, and sample nothing."""
        return [self.label(arm) for arm in self.arms if self.curves[arm] and "reward_better" in self.curves[arm][0]]

    def label(self, policy: str) -> str:
        """What a policy is called on the page; one from outside as the config names it."""
        return self.titles.get(policy, policy)

    @property
    def titles(self) -> dict[str, str]:
        return titles(self.details.arms)

    def comparison(self, key: str) -> str:
        return comparison(key, self.titles)

    def objective_name(self, arm: str) -> str:
        """What an objective is called on the page; that of one preference model as the model."""
        if arm == CEILING:
            return "true principles"
        of_one = arm in self.details.arms and not self.details.arms[arm].of_principles
        return self.label(arm) if of_one else f"{self.label(arm)} objective"


def load(inputs: Mapping[str, Path], config: Mapping[str, Any]) -> RunData:
    """Read the artifacts `inputs` (by unit name) of a finished run."""
    if "evaluate" not in inputs:
        raise UserError("report: the run has no unit 'evaluate' to report on; add it to `stages`")
    folder = inputs["evaluate"]
    details = results.load(RunDetails, folder / "details.json", "an evaluation's details")
    policies = {name: inputs[f"{arm.method}/{name}"] for name, arm in details.arms.items()}
    return RunData(
        config=config,
        results=results.load(RunResults, folder / "results.json", "an evaluation's results"),
        details=details,
        samples=read_lines(folder / "samples.jsonl"),
        curves={name: read_lines(folder / "curve.jsonl") for name, folder in policies.items()},
        diagnostics={
            name: read_lines(file) if (file := folder / "diagnostics.jsonl").is_file() else []
            for name, folder in policies.items()
        },
        by_n={
            name: read_json(file, failure=Damaged)
            for name, folder in policies.items()
            if (file := folder / BY_N).is_file()
        },
        fronts=_fronts(inputs, config, details),
    )


def _fronts(inputs: Mapping[str, Path], config: Mapping[str, Any], details: RunDetails) -> Fronts | None:
    folders = {name.removeprefix("front/"): folder for name, folder in inputs.items() if name.startswith("front/")}
    if not folders:
        return None
    return load_fronts(
        folders, Resampling(seed=0, resamples=config["eval"]["resamples"], confidence=details.confidence)
    )


def load_fronts(folders: Mapping[str, Path], how: Resampling) -> Fronts:
    """All ways of a run, from the artifacts of its units `front/<way>`, by way."""
    ways = {way: results.load(WayFront, folder / FRONT, "a front") for way, folder in folders.items()}
    values = {way: _values(folder / GRID, ways[way]) for way, folder in folders.items()}
    return Fronts(ways, against(ways, values, **how))


def _values(file: Path, way: WayFront) -> Array:
    """(P, N, K) where each answer lies."""
    rows = [row["points"] for row in read_lines(file)]
    return np.array(
        [[[row[point.name]["place"][name] for name in way.objectives] for row in rows] for point in way.points]
    )


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(file, failure=Damaged)]


def words(name: str) -> str:
    """A principle's or setting's name for reading: underscores become spaces."""
    return name.replace("_", " ")


def titles(arms: Mapping[str, ArmFacts]) -> dict[str, str]:
    """What pages call a run's policies."""
    return {SFT: "SFT"} | {name: arm.title for name, arm in arms.items()}


def comparison(key: str, named: Mapping[str, str]) -> str:
    """`morlaif_vs_sft` -> "max-min vs SFT"."""
    return " vs ".join(named.get(policy, policy) for policy in key.split("_vs_"))
