"""Stage `backbone` and its views in stage `pm`; stage `pm` with two principles in one go."""

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
from morlaif.feedback.settings import Principle
from morlaif.hardware import HardwareSettings
from morlaif.models.load import save_policy
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.settings import PMSettings
from morlaif.presets import preset
from morlaif.stages.backbone import STAGE as BACKBONE
from morlaif.stages.pm import STAGE as PM
from morlaif.stages.work import backbone, pm
from morlaif.toy.judge import score
from morlaif.toy.world import make_world
from morlaif.units.job import Job

ROOT = Path(__file__).parents[2]
NAMES = ("toxicity", "empathy")
PRINCIPLES = {
    n: Principle(name=n, question=f"Which has less {n}?", description="All of it.", covers=(n,)) for n in NAMES
}


def conf(path: str) -> dict[str, Any]:
    return preset(*path.split("/"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished folders of `sft` (untrained), `respond` and the principles' feedback."""
    root = tmp_path_factory.mktemp("store")
    folders = {name: root / name for name in ("sft", "respond", *(f"feedback/{n}" for n in NAMES))}
    for folder in folders.values():
        folder.mkdir(parents=True)
    world = make_world(0, sft=40, train=60, eval=30)
    tokenizer = train_tokenizer([e.demonstration for e in world["sft"]], 400)
    scratch = conf("model/toy")["scratch"] | {"hidden_size": 32, "heads": 2, "intermediate_size": 64}
    save_policy(build_causal_lm(ScratchSettings(**scratch), tokenizer, seed=0), tokenizer, folders["sft"])
    pairs = {split: [Pair.of(e.messages, e.chosen, e.rejected) for e in world[split]] for split in ("train", "eval")}
    save_pairs(folders["respond"], pairs)
    for name in NAMES:
        made = {split: [verdict(name, pair) for pair in rows] for split, rows in pairs.items()}
        save_verdicts(folders[f"feedback/{name}"], made)
    return folders


def verdict(name: str, pair: Pair) -> Verdict:
    gap = score(name, pair.messages, pair.first) - score(name, pair.messages, pair.second)
    return Verdict(pair.id, 0.5 if gap == 0 else 0.9 if gap > 0 else 0.1, 0.0, True, "exact")


STAGES = {"backbone": BACKBONE, "pm": PM}


def job(name: str, preset: str, inputs: dict[str, Path], root: Path, steps: list | None = None, **reads: Any) -> Job:
    settings = TypeAdapter(PMSettings).validate_python(conf(f"pm/{preset}") | {"epochs": 1})
    out = root / name.replace("/", "-")
    out.mkdir()
    stage = STAGES[name.split("/")[0]]
    return Job(
        stage.name, name, "digest", *typed(stage, {"pm": settings, "split": "train", **reads}, inputs), out,
        root / "keep", root / "ledger.sqlite", 3, HardwareSettings(**conf("hardware/cpu")),
        lambda step, total, metrics: steps is None or steps.append((name, step, total, metrics)),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "own"), [("toy_heads", ""), ("toy_conditioned", "@arm"), ("toy_salmon", "@arm")])
def test_one_network_and_a_view_of_it_for_each_principle(preset: str, own: str, inputs, tmp_path) -> None:
    """The models of all arms, or those that one arm has to itself."""
    shared = job("backbone/principles", preset, inputs, tmp_path, principles=PRINCIPLES)
    headline = backbone.build(shared)
    assert headline["principles"] == 2 and 0 <= headline["accuracy"] <= 1
    folders = {}
    for name in NAMES:
        view = job(
            f"pm/{name}{own}",
            preset,
            {**inputs, "backbone/principles": shared.out},
            tmp_path,
            principle=PRINCIPLES[name],
        )
        assert pm.build(view)["accuracy"] == json.loads((view.out / "pm.json").read_text())["accuracy"]["value"]
        folders[name] = view.out
        card = (view.out / "model" / "README.md").read_text()
        assert f"> Which has less {name}? All of it." in card and "the verdicts of toxicity, empathy" in card
    bank = PreferenceBank.load(folders, base=inputs["sft"] / "model")
    assert len(list(bank.modules())) == 1
    assert bank.score([[{"role": "user", "content": "How do I fix my bicycle?"}]], ["Thank you."]).shape == (1, 2)


@pytest.mark.slow
def test_two_principles_in_one_go_each_in_its_folder(inputs, tmp_path) -> None:
    steps: list = []
    jobs = [job(f"pm/{n}", "toy_trunk", inputs, tmp_path, steps, principle=PRINCIPLES[n]) for n in NAMES]
    ends = pm.build_together(jobs)
    (alone := tmp_path / "alone").mkdir()
    one = pm.build(job("pm/empathy", "toy_trunk", inputs, alone, principle=PRINCIPLES["empathy"]))
    assert ends["pm/empathy"] == pytest.approx(one, abs=1e-4)
    assert {name for name, *_ in steps} == {"pm/toxicity", "pm/empathy"}
    assert steps[-1][1:3] == (8, 8)
    assert all((made.out / "model" / "adapter_model.safetensors").is_file() for made in jobs)


@pytest.mark.slow
def test_a_principle_without_verdicts_ends_the_backbone_with_a_line(inputs, tmp_path) -> None:
    pairs = {split: [] for split in ("train", "eval")}
    (empty := tmp_path / "empty").mkdir()
    save_verdicts(empty, pairs)
    given = {**inputs, "feedback/empathy": empty}
    with pytest.raises(UserError, match="pm/empathy: none of 0 verdicts can be trained on"):
        backbone.build(job("backbone/principles", "toy_heads", given, tmp_path, principles=PRINCIPLES))
