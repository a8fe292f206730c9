"""Stage `pm` on a miniature of the toy world, from artifacts to artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from artifacts import save_verdicts
from jobs import typed
from pydantic import TypeAdapter

from morlaif.data.records import Pair, save_pairs
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.hardware import HardwareSettings
from morlaif.models.load import save_policy
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.settings import PMSettings
from morlaif.presets import preset
from morlaif.stages.pm import STAGE
from morlaif.stages.work.pm import build
from morlaif.toy.judge import score
from morlaif.toy.world import make_world
from morlaif.units.job import Job

ROOT = Path(__file__).parents[2]
NAME = "toxicity"


def conf(path: str) -> dict[str, Any]:
    return preset(*path.split("/"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished folders of `sft` (untrained), `respond` and `feedback/toxicity`."""
    root = tmp_path_factory.mktemp("store")
    folders = {name: root / name for name in ("sft", "respond", f"feedback/{NAME}")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    world = make_world(0, sft=60, train=240, eval=80)
    texts = [text for e in world["sft"] for text in (e.demonstration, e.messages[-1]["content"])]
    tokenizer = train_tokenizer(texts, 400)
    scratch = conf("model/toy")["scratch"] | {"hidden_size": 32, "heads": 2, "intermediate_size": 64}
    save_policy(build_causal_lm(ScratchSettings(**scratch), tokenizer, seed=0), tokenizer, folders["sft"])
    pairs = {split: [Pair.of(e.messages, e.chosen, e.rejected) for e in world[split]] for split in ("train", "eval")}
    save_pairs(folders["respond"], pairs)
    save_verdicts(
        folders[f"feedback/{NAME}"], {split: [verdict(pair) for pair in rows] for split, rows in pairs.items()}
    )
    return folders


def verdict(pair: Pair) -> Verdict:
    gap = score(NAME, pair.messages, pair.first) - score(NAME, pair.messages, pair.second)
    return Verdict(pair.id, 0.5 if gap == 0 else 0.9 if gap > 0 else 0.1, 0.0, True, "exact")


@pytest.fixture
def run(inputs: dict[str, Path], tmp_path: Path):
    def run(name: str = "out", split: str | None = None, preset: str = "toy", **change: Any):
        settings = TypeAdapter(PMSettings).validate_python(conf(f"pm/{preset}") | change)
        config = {"pm": settings, "split": split or "train"}
        out, steps = tmp_path / name, []
        out.mkdir()
        job = Job(
            "pm", f"pm/{NAME}", "digest", *typed(STAGE, config, inputs), out, tmp_path / "keep", tmp_path / "ledger", 3,
            HardwareSettings(**conf("hardware/cpu")), lambda step, total, metrics: steps.append((step, total)),
        )  # fmt: skip
        return out, build(job), steps

    return run


@pytest.mark.slow
def test_from_verdicts_to_a_model_that_scores(run, inputs) -> None:
    out, headline, steps = run(epochs=4)
    report = json.loads((out / "pm.json").read_text())
    assert report["principle"] == NAME and report["kind"] == "lora"
    assert headline["accuracy"] == report["accuracy"]["value"] >= 0.7
    assert report["pairs"]["train"] == 240 and report["accuracy"]["n"] < 80  # ties of the judge decide nothing
    assert steps[-1] == (60, 60) and len(steps) == 60
    bank = PreferenceBank.load({NAME: out}, base=inputs["sft"] / "model")
    prompt = [{"role": "user", "content": "How do I fix my bicycle?"}]
    assert bank.score([prompt], ["Thank you for asking."]).shape == (1, 1)


@pytest.mark.slow
def test_the_gold_judge_learns_from_the_other_split(run) -> None:
    out, _, _ = run(split="eval", epochs=1)
    pairs = json.loads((out / "pm.json").read_text())["pairs"]
    assert pairs["train"] == 80 and pairs["held_out"] == 240


@pytest.mark.slow
def test_a_whole_model(run) -> None:
    out, headline, _ = run(preset="full", epochs=1, learning_rate=1e-3, head_learning_rate=1e-2, warmup_steps=2)
    assert (out / "model" / "model.safetensors").exists() and 0 <= headline["accuracy"] <= 1
    assert PreferenceBank.load({NAME: out}).names == (NAME,)


def test_a_base_that_does_not_exist(run, tmp_path) -> None:
    with pytest.raises(UserError, match=r"pm\.base=.*nowhere': no such folder"):
        run(base=str(tmp_path / "nowhere"))
