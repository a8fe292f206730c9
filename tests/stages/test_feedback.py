"""The stage on real artifacts: pairs in, verdicts and their quality out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobs import typed

from morlaif.data.records import Pair, load_pairs, save_pairs
from morlaif.errors import UserError
from morlaif.feedback.records import load_verdicts
from morlaif.feedback.settings import HumanSettings, JsonlSettings, PrinciplesSettings, RulesSettings, StopSettings
from morlaif.presets import preset
from morlaif.settings import identity
from morlaif.stages.feedback import STAGE
from morlaif.stages.work.feedback import build
from morlaif.toy.world import make_world
from morlaif.units.job import Job

PRINCIPLES = PrinciplesSettings(**preset("principles", "paper12"))
RULES = RulesSettings(**preset("feedback", "rules"))


@pytest.fixture(scope="module")
def responses(tmp_path_factory) -> Path:
    """The artifact of `respond`: toy pairs, in the training split with human labels."""
    folder = tmp_path_factory.mktemp("respond")
    world = make_world(3, sft=10, train=150, eval=60)
    splits = {
        name: [Pair.of(e.messages, e.chosen, e.rejected, human=human) for e in world[name]]
        for name, human in (("train", 1.0), ("eval", None))
    }
    save_pairs(folder, splits)
    return folder


def run(folder: Path, responses: Path, config: dict[str, Any], name: str = "feedback/detail") -> tuple:
    out = folder / "out"
    out.mkdir(parents=True)
    steps = []
    job = Job(
        "feedback", name, "d", *typed(STAGE, config, {"respond": responses}), out, folder / "keep", folder / "l.sqlite",
        7, None, lambda *step: steps.append(step),
    )  # fmt: skip
    headline = build(job)
    return headline, json.loads((out / "quality.json").read_text()), steps


def principle(name: str):
    return next(p for p in PRINCIPLES.chosen if p.name == name)


@pytest.mark.slow
def test_one_principle(tmp_path, responses):
    headline, quality, steps = run(tmp_path, responses, {"feedback": RULES, "principle": principle("detail")})
    for split in ("train", "eval"):
        pairs, verdicts = load_pairs(responses, split), load_verdicts(tmp_path / "out", split)
        assert [v.pair_id for v in verdicts] == [p.id for p in pairs]
        assert all(v.valid and 0 <= v.p_first <= 1 for v in verdicts)
    assert headline["verdicts"] == 210 and headline["validity"] == 1.0 and headline["usd"] == 0.0
    assert quality["train"]["agreement_truth"]["value"] > 0.95
    assert quality["train"]["agreement_human"]["n"] == 150 and quality["eval"]["agreement_human"]["n"] == 0
    assert quality["train"]["mean_bias"] == pytest.approx(RULES.position_bias, abs=0.15)
    assert quality["judge"] == "rules"
    assert steps[-1][:2] == (210, 210)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_verdicts(tmp_path, responses):
    config = {"feedback": RULES, "principle": principle("empathy")}
    run(tmp_path / "a", responses, config)
    run(tmp_path / "b", responses, config)
    assert load_verdicts(tmp_path / "a/out", "train") == load_verdicts(tmp_path / "b/out", "train")
    assert (tmp_path / "a/out/quality.json").read_bytes() == (tmp_path / "b/out/quality.json").read_bytes()


def test_the_baseline(tmp_path, responses):
    config = {"feedback": RULES, "constitution": PRINCIPLES.constitution, "verdicts_per_pair": 2}
    headline, quality, steps = run(tmp_path, responses, config, "feedback/single")
    assert headline["verdicts"] == 210 and steps[-1][:2] == (420, 420)
    assert quality["train"]["agreement_truth"]["value"] > 0.9


def test_human_labels(tmp_path, responses):
    headline, quality, _ = run(tmp_path, responses, {"feedback": HumanSettings(source="human")}, "feedback/gold")
    assert headline["validity"] == pytest.approx(150 / 210)
    assert quality["eval"]["valid"] == 0 and quality["eval"]["invalid"] == {"no human label": 60}
    assert quality["train"]["agreement_truth"] is None
    assert all(v.p_first == 1.0 for v in load_verdicts(tmp_path / "out", "train"))


def test_no_label_at_all_is_an_error(tmp_path):
    pairs = [Pair.of([{"role": "user", "content": "q"}], "a", "b")]
    save_pairs(tmp_path / "respond", {"train": pairs, "eval": []})
    with pytest.raises(
        UserError, match=r"none of 1 pairs has a valid verdict .no human label.*another feedback source"
    ):
        run(tmp_path / "x", tmp_path / "respond", {"feedback": HumanSettings(source="human")})


def test_labels_without_information_are_reported_and_stop_where_that_is_asked_for(tmp_path, responses):
    """A file whose verdicts are all at one half."""
    pairs = [pair for split in ("train", "eval") for pair in load_pairs(responses, split)]
    flat = tmp_path / "flat.jsonl"
    flat.write_text("".join(json.dumps({"pair_id": pair.id, "p_first": 0.5}) + "\n" for pair in pairs))
    base = preset("feedback", "jsonl")
    settings = JsonlSettings(**base | {"path": str(flat)})
    _, quality, _ = run(tmp_path / "a", responses, {"feedback": settings, "principle": principle("detail")})
    found = quality["information"]
    assert found["n"] == 210 and found["spread"] == 0.0 and found["orders_disagree"] is None
    assert found["warnings"] == ["sees no difference: its labels on 210 pairs lie 0 from ½ on average"]
    assert "WARNING: feedback/detail: jsonl sees no difference" in quality["usage"]["warnings"][0]
    strict = settings.model_copy(update={"stop_if": StopSettings(orders_disagree=None, spread=0.01, letter_mass=None)})
    assert identity(strict) == identity(settings), "a limit changes no label"
    with pytest.raises(UserError, match=r"feedback/detail: jsonl: .* spread 0 is below 0\.01 \(feedback\.stop_if\)"):
        run(tmp_path / "b", responses, {"feedback": strict, "principle": principle("detail")})
