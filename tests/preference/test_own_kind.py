"""A kind of preference model from a package outside the tree: from feedback to PPO, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli import morlaif
from composed import told
from pydantic import TypeAdapter

from morlaif.errors import UserError
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.kinds import kind_of
from morlaif.preference.settings import PMSettings
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

WORDS = "morlaif_plugin.words.Words"


def settings(kind: str = WORDS, **params: object):
    return TypeAdapter(PMSettings).validate_python({"kind": kind, "params": params})


def test_it_learns_is_measured_and_scores(plugin, make_pairs, texts_of, tmp_path: Path) -> None:
    pairs, verdicts = make_pairs(60, 0)
    held, held_verdicts = make_pairs(20, 1)
    (out := tmp_path / "kindness").mkdir()
    own = settings(ridge=0.5)
    task = Task("kindness", verdicts, held_verdicts, out, "Which is kinder?")
    (report,) = train_pms([task], Corpus(pairs, held, None), own, seed=0).values()
    assert report.accuracy["value"] == 1.0 and report.accuracy["n"] == 20 and report.pairs["train"] == 60
    assert report.length_baseline["value"] is not None and report.kind == WORDS
    assert "Which is kinder?" in (out / "model" / "README.md").read_text()

    prompts, responses = texts_of(held)
    bank = PreferenceBank.load({"kindness": out}, settings=own)
    scores = bank.score(prompts, responses)
    assert (
        scores.shape == (40, 1) and scores.dtype == torch.float32 and bank.deviation(prompts, responses).isnan().all()
    )
    assert all((score > 0) == ("kindly" in text) for score, text in zip(scores[:, 0], responses, strict=True))
    for other in (None, settings("another.package.Kind")):
        with pytest.raises(UserError, match=r"'kindness': its kind 'morlaif_plugin.* runs only where the run's config"):
            PreferenceBank.load({"kindness": out}, settings=other)


def test_what_the_project_asks(plugin) -> None:
    kind = kind_of(settings())
    assert kind.trains and not (kind.shared or kind.on_ranks or kind.network or kind.on_policy or kind.existing)
    assert kind.joint == 1 and kind.batch is None and kind.footprint is None and kind.base is None


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        (
            WORDS,
            {"rigde": 1.0},
            r"pm\.params\.rigde: '.*Words' has no such .* Did you mean 'ridge'",
        ),
        (WORDS, {"ridge": "much"}, r"pm\.params\.ridge of 'morlaif_plugin.*: .*number, got 'much'"),
        (
            "morlaif_plugin.words.Counter",
            {},
            r"pm\.kind '.*\.Counter': expected a class derived from",
        ),
        ("morlaif_plugin.words.Wrods", {}, r"pm\.kind 'morlaif_plugin\.words\.Wrods': 'morlaif_plugin\.words' has no"),
    ],
)
def test_what_is_wrong_is_one_line(plugin, kind: str, params: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = kind_of(settings(kind, **params)).on_policy


@pytest.mark.slow
def test_a_typo_is_reported_with_the_near_name() -> None:
    line = told("pm.kind=lara")
    assert line.startswith("pm.kind='lara': should be lora, trunk, full, heads, conditioned, salmon, ")
    assert "Did you mean 'lora'?" in line and "dotted path" in line


@pytest.mark.slow
def test_from_feedback_to_ppo(plugin, tmp_path: Path) -> None:
    words = [
        "experiment=smoke",
        "pm=words",
        "sft.max_steps=1",
        "data.sft=60",
        "data.train=24",
        "data.eval=8",
        "weights.prompts=8",
        "ppo.steps=1",
        "ppo.rollouts=8",
        "ppo.max_new_tokens=8",
        "ppo.samples=0",
        "ppo.shaping.missing_eos=none",
        "principles.count=2",
        "arms.select=[morlaif]",
        "stages=[ppo]",
    ]
    done = morlaif([*words, "hardware.workers=1"], tmp_path, {"PYTHONPATH": plugin})
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = [json.loads(path.read_text()) for path in tmp_path.glob("store/pm/*/manifest.json")]
    assert len(manifests) == 2 and all(len(one["reads"]["contents"]["pm.kind"]) == 32 for one in manifests)
    assert list(tmp_path.glob("store/ppo/*/manifest.json"))
