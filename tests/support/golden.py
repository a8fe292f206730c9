"""The digests of units as a release left them: `python tests/support/golden.py` writes tests/golden/digests.json anew.

A line for each experiment with the digest of each of its units, and for every other preset those that it changes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from composed import config

from morlaif.models import fingerprint
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.units.unit import Unit

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "golden" / "digests.json"
BASE = "experiment=quickstart"  # with which all that is no experiment is compared
GROUPS = (
    "data",
    "eval",
    "feedback",
    "pm",
    "ppo",
    "respond",
    "reward",
    "sft",
    "weights",
)  # whose presets differ in keys
# What a preset leaves to its user. Whatever lies on the hub lies at one commit, and no file is read.
GIVEN = {
    "data=hub": ["data.id=org/data"],
    "data=file": None,
    "data=jsonl": None,  # a file of the user's
    "experiment=local": None,  # models and data of the user's
    "eval=hf": ["eval.judge.engine.path=org/judge"],
    "feedback=hf": ["feedback.path=org/judge"],
    "feedback=rlaif": ["feedback.path=org/judge"],
    "feedback=rlaif_few_shot": ["feedback.path=org/judge"],
    "feedback=jsonl": None,
    "feedback=trained": ["feedback.path=org/judge"],
    "feedback=server": ["feedback.base_url=http://localhost:8000/v1", "feedback.model=judge"],
    "pm=pretrained": ["pm.paths={helpfulness: org/scorer}", "principles.count=1", "arms.select=[morlaif]"],
    "reward=function": ["reward.function=morlaif.reward.functions.length_near", "+reward.params.words=30"],
    "reward=rubric": None,  # a file of the user's
    "reward=judge_server": ["reward.engine.base_url=http://localhost:8000/v1", "reward.engine.model=judge"],
}


def cases() -> dict[str, list[str]]:
    """What is typed for each line."""
    options = sorted(
        (file.parent.name, file.stem) for file in (ROOT / "conf").glob("*/*.yaml") if file.parent.name in GROUPS
    )
    experiments = sorted(f"experiment={file.stem}" for file in (ROOT / "conf" / "experiment").glob("*.yaml"))
    names = [*experiments, *(f"{group}={name}" for group, name in options if name != "plugin")]  # code of the user's
    return {name: [name, *given] for name in names if (given := GIVEN.get(name, [])) is not None}


def units(overrides: list[str]) -> tuple[Unit, ...]:
    with _hub_at_one_commit():
        return plan(config(*overrides), Contents(None)).units


def digests(overrides: list[str]) -> dict[str, str]:
    return {unit.name: unit.digest for unit in units(overrides)}


def changed(name: str, overrides: list[str]) -> dict[str, str]:
    """What the line of a case holds: of an experiment all, of another preset what it does not share with the base."""
    made = digests(overrides)
    if name.startswith("experiment="):
        return made
    shared = digests([BASE])
    return {unit: digest for unit, digest in made.items() if shared.get(unit) != digest}


@contextmanager
def _hub_at_one_commit() -> Iterator[None]:
    with patch.object(fingerprint, "_ask", lambda *_: fingerprint.Commit("c" * 40)):
        yield


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    made = {name: changed(name, overrides) for name, overrides in cases().items()}
    text = json.dumps(made, indent=1) + "\n"
    (Path(sys.argv[1]) if sys.argv[1:] else FILE).write_text(text)
