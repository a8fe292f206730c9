"""Finished runs as the store keeps them, made from the artifacts of a plausible one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

SCALARIZERS = ("linear", "max_min", "soft_max_min")


def interval(value: float, half: float = 0.05) -> dict:
    return {"value": value, "low": value - half, "high": value + half, "n": 300}


def write_responses(folder: Path, run: int, policies: list[str], prompts: int = 40) -> None:
    """SFT hardly helps, the baseline sometimes, the multi policy of each run more often than that of the one before."""
    rows = []
    for k in range(prompts):
        good, bad = "Here is a full plan. Ask me again.", "You could search for it."
        texts = {"sft": good if k % 10 == 0 else bad, "single": good if k % 3 == 0 else "It is a day."}
        texts["multi"] = good if k % 4 <= run else "I can guide you."
        answers = {p: {"text": texts[p], "tokens": 5, "scores": None, "truth": None} for p in policies}
        messages = [{"role": "user", "content": f"Question {k}?"}]
        rows.append({"prompt_id": f"{k:016x}", "messages": messages, "responses": answers})
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def runs(artifacts, tmp_path_factory):
    """make(count=…, change=…, **options of artifacts) -> (runs as a comparison reads them, folders by stage/digest).

    Runs differ in their scalarizer; they share the baseline, the SFT policy and the preference models. `change` gets
    each run's number, details and results before they are written.
    """

    def make(count: int = 3, change: Any = None, **options: Any) -> tuple[list[dict], dict[str, Path]]:
        made, inputs, root = [], {}, tmp_path_factory.mktemp("store")
        for number in range(count):
            folders = artifacts(**options)
            evaluated = folders["evaluate"]
            details, results = (json.loads((evaluated / f"{n}.json").read_text()) for n in ("details", "results"))
            units = {"sft": "5f7", "evaluate": f"e{number}", "ppo/multi": f"a{number}", "ppo/single": "b"}
            units |= {f"{stage}/{name}": f"{stage}{name}" for name in details["names"] for stage in ("pm", "feedback")}
            if "multi" in details["arms"]:
                details["arms"]["multi"]["title"] = SCALARIZERS[number % 3].replace("_", "-")
            if change is not None:
                change(number, details, results)
            for name, value in (("details", details), ("results", results)):
                (folders["evaluate"] / f"{name}.json").write_text(json.dumps(value))
            write_responses(folders["evaluate"], number, ["sft", *details["arms"]])
            for name, folder in folders.items():
                key = f"{name.partition('/')[0]}/{units[name]}"
                if key not in inputs:
                    inputs[key] = Path(shutil.copytree(folder, root / f"{number}" / key))
            config = {
                "principles": len(details["principles"]), "scalarizer.name": SCALARIZERS[number % 3], "seed": 0,
                "scalarizer.params": {}, "model.name": "toy", "ppo.rollouts": 64, "principles.verdicts_per_pair": 12,
            }  # fmt: skip
            made.append({"name": f"run-{number}", "config": config, "units": units, "human": None})
        return made, inputs

    return make
