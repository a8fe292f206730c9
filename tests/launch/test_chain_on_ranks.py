"""`hardware=cpu2_zero3` from fine-tuning to the exported policy: on two gloo processes under ZeRO-3, as in one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranked

pytestmark = pytest.mark.slow

TIMEOUT = 300  # seconds of wall time of one run, on a machine that may be busy; alone it takes some 40
CHAIN = [
    "experiment=smoke", "model=toy_small", "arms.select=[morlaif]", "stages=[evaluate]", "data.sft=90", "data.train=24",
    "respond=toy", "respond.max_new_tokens=12",
    "sft.max_steps=4", "sft.batch_size=8", "sft.micro_batch_size=4", "sft.log_every=1", "pm.epochs=1",
    "pm.batch_size=8", "ppo.steps=5", "ppo.rollouts=8", "ppo.max_new_tokens=12", "ppo.policy.kind=lora",
    "ppo.checkpoint_every=1", "ppo.shaping.missing_eos=none",
    "principles.count=2", "data.eval=8", "eval.prompts=8", "eval.max_new_tokens=12",
]  # fmt: skip
TIMES = {"seconds", "tokens_per_second"}


def built(folder: Path, *arguments: str) -> None:
    done = ranked.morlaif(folder, [*CHAIN, *arguments], TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr


def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Steps and metrics of each unit that learns."""
    found: dict[str, list[dict[str, Any]]] = {}
    files = [file for stage in ("sft", "pm", "ppo") for file in folder.glob(f"store/{stage}/*/metrics.jsonl")]
    for file in files:
        artifact = json.loads((file.parent / "manifest.json").read_text())
        found[artifact["name"]] = [json.loads(line) for line in file.read_text().splitlines()]
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = rows(one), rows(other)
    assert first.keys() == second.keys()
    assert len([name for name in first if name.startswith("pm/")]) == 2 and {"sft", "ppo/morlaif"} <= first.keys()
    for unit, lines in first.items():
        assert [line["step"] for line in lines] == [line["step"] for line in second[unit]], unit
        for line, like in zip(lines, second[unit], strict=True):
            found, wanted = (numbers(timeless(one["metrics"])) for one in (line, like))
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4), unit


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("seconds") and name not in TIMES}


LOADS = """
import sys
sys.modules["deepspeed"] = None  # an import of it fails
import torch
from transformers import AutoModelForCausalLM
weights = [AutoModelForCausalLM.from_pretrained(path).state_dict() for path in sys.argv[1:]]
assert weights[0].keys() == weights[1].keys()
for name in weights[0]:
    torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    built(folder, "hardware.workers=1")
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    built(folder, "hardware=cpu2_zero3")
    return folder


@pytest.mark.timeout(2 * TIMEOUT)
def test_every_loss_is_that_of_one_process(alone, two):
    (run,) = two.glob("runs/*")
    started = {folder.name for folder in (run / "ranks").iterdir()}
    assert started >= {"sft", "ppo-morlaif"} and len([name for name in started if name.startswith("pm-")]) == 1
    for folder in (run / "ranks").iterdir():
        assert json.loads((folder / "ds.json").read_text())["zero_optimization"]["stage"] == 3
    assert_same(alone, two)


@pytest.mark.timeout(2 * TIMEOUT)
def test_responses_weights_and_results_are_those_of_one_process(alone, two):
    """What ranks sample, and what they make of its scores; the first one's files alone."""
    (run,) = two.glob("runs/*")
    assert {"respond", "weigh-morlaif", "evaluate"} <= {folder.name for folder in (run / "ranks").iterdir()}
    for name in ("respond/*/pairs/train/data-*.arrow", "evaluate/*/responses.jsonl"):
        first, second = (next(folder.glob(f"store/{name}")) for folder in (alone, two))
        assert texts(first) == texts(second), name
    for name in ("weigh/*/weights.json", "evaluate/*/results.json", "evaluate/*/details.json"):
        first, second = (json.loads(next(folder.glob(f"store/{name}")).read_text()) for folder in (alone, two))
        assert numbers(first) == pytest.approx(numbers(second), rel=1e-3, abs=1e-3), name


def texts(file: Path) -> object:
    """The bytes of pairs; of policies' responses, whose scores may be a rounding apart, what was said."""
    if file.suffix == ".arrow":
        return file.read_bytes()
    rows = map(json.loads, file.read_text().splitlines())
    return [{policy: answer["text"] for policy, answer in row["responses"].items()} for row in rows]


def numbers(tree: Any, where: str = "") -> dict[str, float]:
    """The numbers of a tree by their place, but those of time and place."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        parts = [numbers(value, f"{where}/{key}") for key, value in items if "seconds" not in str(key)]
        return {place: value for part in parts for place, value in part.items()}
    return {where: float(tree)} if isinstance(tree, int | float) else {}


@pytest.mark.timeout(2 * TIMEOUT)
def test_the_export_loads_where_deepspeed_cannot_be_imported(alone, two):
    paths = [str(next(folder.glob("store/ppo/*/model"))) for folder in (alone, two)]
    subprocess.run([sys.executable, "-c", LOADS, *paths], check=True, timeout=TIMEOUT)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3 * TIMEOUT)
def test_a_rank_killed_in_ppo_is_named_and_one_process_goes_on(alone, tmp_path):
    arguments = [*CHAIN, "stages=[ppo]", f"paths.store={tmp_path / 'store'}"]
    copy_all_but_ppo(alone / "store", tmp_path / "store")
    checkpoint = "store/ppo/.*/keep/step-00000001.json"
    process = ranked.start_until(tmp_path, [*arguments, "hardware=cpu2_zero3"], checkpoint, TIMEOUT)
    ranked.kill_rank(process, tmp_path, 1, "ppo/morlaif")
    done = ranked.morlaif(tmp_path, [*arguments, "hardware.workers=1"], TIMEOUT)
    ranked.assert_went_on(done, tmp_path, "ppo/morlaif")
    assert_same(alone, tmp_path)


def copy_all_but_ppo(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=lambda folder, names: ["ppo"] if Path(folder) == source else [])
