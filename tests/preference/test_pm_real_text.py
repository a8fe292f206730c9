"""Real dialogues under human labels: every kind trains and scores, and long ones lose no response."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from morlaif.data.load import load
from morlaif.data.records import Pair
from morlaif.data.settings import DataSettings
from morlaif.feedback.records import Verdict
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.model import tokenize
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms
from morlaif.presets import preset

ROOT = Path(__file__).parents[2]
FILE = Path(os.environ.get("MORLAIF_HH_RLHF", ROOT.parent / "shared/data/hh-rlhf")) / "helpful.jsonl.gz"
LONGEST = 128
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there")


def conf(path: str):
    return preset(*path.split("/"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, its tokenizer, 60 labelled pairs and 30 held-out ones."""
    values = conf("data/hh_rlhf") | {"path": str(FILE), "limit": 90, "eval_size": 30, "eval_fraction": None}
    splits = load(TypeAdapter(DataSettings).validate_python(values), seed=0).splits
    pairs = {}
    for split in ("train", "eval"):
        turned = [i % 2 for i in range(len(splits[split]))]
        pairs[split] = [
            Pair.of(e.messages, *((e.rejected, e.chosen) if t else (e.chosen, e.rejected)), float(not t))
            for e, t in zip(splits[split], turned, strict=True)
        ]
    texts = [text for pair in pairs["train"] for text in (pair.first, pair.messages[-1]["content"])]
    tokenizer = train_tokenizer(texts, 600)
    scratch = conf("model/toy")["scratch"] | {"hidden_size": 32, "heads": 2, "intermediate_size": 64}
    base = tmp_path_factory.mktemp("base")
    build_causal_lm(ScratchSettings(**scratch), tokenizer, seed=0).save_pretrained(base)
    tokenizer.save_pretrained(base)
    return base, tokenizer, pairs


def test_both_sides_of_a_long_pair_are_read_behind_the_same_prompt(world) -> None:
    _, tokenizer, pairs = world
    cut = 0
    for pair in pairs["train"]:
        whole, short = (
            [tokenize(tokenizer, pair.messages, side, n, room) for side in (pair.first, pair.second)]
            for n, room in ((100_000, 100_000), (LONGEST, LONGEST // 2))
        )
        assert short[0].ids[: short[0].start] == short[1].ids[: short[1].start]
        for side, all_of_it in zip(short, whole, strict=True):
            prompt, answer = side.ids[: side.start], all_of_it.ids[all_of_it.start :]
            assert len(side.ids) <= LONGEST and 0 < side.start <= LONGEST // 2
            assert prompt[:4] == all_of_it.ids[:4], "begins as a dialogue does"
            assert prompt[-3:] == all_of_it.ids[: all_of_it.start][-3:]
            assert side.ids[side.start : -1] == answer[: len(side.ids) - side.start - 1]
            assert side.ids[-1] == answer[-1] == tokenizer.eos_token_id
            assert (side.prompt_cut, side.response_cut) == (
                all_of_it.start - side.start, len(answer) - len(side.ids) + side.start
            )  # fmt: skip
            cut += side.prompt_cut > 0
    assert cut > 20


@pytest.mark.parametrize("kind", ["toy", "toy_trunk", "toy_heads", "toy_conditioned", "toy_ensemble", "toy_full"])
def test_every_kind_trains_and_scores(kind: str, world, tmp_path) -> None:
    from morlaif.preference.settings import PMSettings

    base, _, pairs = world
    settings = TypeAdapter(PMSettings).validate_python(conf(f"pm/{kind}") | {"epochs": 1, "max_length": LONGEST})
    verdicts = {s: [Verdict(pair.id, pair.human, 0.0, True, "human") for pair in pairs[s]] for s in pairs}
    task = Task("human", verdicts["train"], verdicts["eval"], tmp_path)
    report = train_pms([task], Corpus(pairs["train"], pairs["eval"], base), settings, seed=0)["human"]
    assert report.accuracy["n"] == 30 and 0 <= report.accuracy["value"] <= 1
    assert (
        report.length_baseline["value"] is not None
        and f"{report.length_baseline['value']:.3f}" in (tmp_path / "model" / "README.md").read_text()
    )
    bank = PreferenceBank.load({"human": tmp_path})
    first, second = (
        bank.score([p.messages for p in pairs["eval"]], [getattr(p, side) for p in pairs["eval"]])
        for side in ("first", "second")
    )
    right = ((first > second).flatten().float() == torch.tensor([p.human for p in pairs["eval"]])).float().mean()
    assert right == pytest.approx(report.accuracy["value"], abs=0.04)
