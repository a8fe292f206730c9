"""What a report is made of, read from the artifacts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.errors import Damaged, UserError
from morlaif.files import read_json, read_json_lines

SINGLE = "single"


@dataclass(frozen=True)
class RunData:
    """Everything a page shows, except for the record of the run itself, which is known when the run closes."""

    config: Mapping[str, Any]  # the run's resolved config
    results: Mapping[str, Any]  # results.json of evaluate
    details: Mapping[str, Any]  # details.json of evaluate
    samples: list[dict[str, Any]]  # samples.jsonl of evaluate
    curves: Mapping[str, list[dict[str, float]]]  # PPO steps of each arm

    @property
    def names(self) -> list[str]:
        """The preference models, the principles first."""
        return list(self.details["names"])

    @property
    def principles(self) -> list[str]:
        return [name for name in self.names if name != SINGLE]

    @property
    def rewarded(self) -> list[str]:
        """The columns of the first arm's reward."""
        row = self.curves[self.arms[0]][0]
        return [key.removeprefix("score/") for key in row if key.startswith("score/")]

    @property
    def reward(self) -> str:
        """What kind of thing the first arm's policy learnt from."""
        return self.config.get("reward", {}).get("kind", "pm")

    @property
    def arms(self) -> list[str]:
        return list(self.details["arms"])

    def label(self, policy: str) -> str:
        """What a policy is called on the page."""
        if policy == "sft":
            return "SFT"
        if policy in (self.details.get("policies") or {}):
            return policy  # from outside: the config names it
        if policy == SINGLE:
            return "single rating" if self.reward == "judge" else "single PM"
        if policy in (self.details.get("policies") or {}):  # one that the run did not train
            return policy
        return str(self.config.get("scalarizer", {}).get("name", policy)).replace("_", "-")


def load(inputs: Mapping[str, Path], config: Mapping[str, Any]) -> RunData:
    """Read the artifacts `inputs` (by unit name) of a finished run."""
    if "evaluate" not in inputs:
        raise UserError("report: the run has no unit 'evaluate' to report on; add it to `stages`")
    folder = inputs["evaluate"]
    details = read_json(folder / "details.json", "an evaluation's details", of=dict, failure=Damaged)
    return RunData(
        config=config,
        results=read_json(folder / "results.json", "an evaluation's results", of=dict, failure=Damaged),
        details=details,
        samples=read_lines(folder / "samples.jsonl"),
        curves={arm: read_lines(inputs[f"ppo/{arm}"] / "curve.jsonl") for arm in details["arms"]},
    )


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(file, failure=Damaged)]


def words(name: str) -> str:
    """A principle's or setting's name for reading: underscores become spaces."""
    return name.replace("_", " ")


def comparison(run: RunData, key: str) -> str:
    """`policy_vs_sft` -> "max-min vs SFT"."""
    first, second = (run.label(run.arms[0] if role == "policy" else role) for role in key.split("_vs_"))
    return f"{first} vs {second}"


def objective_name(run: RunData, arm: str) -> str:
    """What an objective is called on the page."""
    if arm == "ceiling":
        return "true principles"
    return run.label(arm) if arm == SINGLE else f"{run.label(arm)} objective"
