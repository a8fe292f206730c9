"""Stage `weigh`: statistics of SFT responses and every way to weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import typed

from morlaif.data.records import Example, Pair, load_pairs, save_examples, save_pairs
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.hardware import HardwareSettings
from morlaif.models.load import save_policy
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.settings import LoraPM
from morlaif.preference.train import train_pm
from morlaif.presets import preset
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.settings import WeightsSettings
from morlaif.stages.weigh import STAGE
from morlaif.stages.work.weigh import build
from morlaif.toy.judge import score
from morlaif.toy.world import make_world
from morlaif.units.job import Job

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAMES = ("helpfulness", "toxicity", "sycophancy")


def conf(path: str) -> dict[str, Any]:
    return preset(*path.split("/"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished folders of `data`, `sft`, `respond` (sampled pairs) and three preference models of the toy world."""
    root = tmp_path_factory.mktemp("store")
    folders = {name: root / name for name in ("data", "sft", "respond", *(f"pm/{name}" for name in NAMES))}
    for folder in folders.values():
        folder.mkdir(parents=True)
    world = make_world(0, sft=60, train=160, eval=60)
    save_examples(folders["data"], world)
    texts = [text for e in world["sft"] for text in (e.demonstration, e.messages[-1]["content"])]
    tokenizer = train_tokenizer(texts, 400)
    scratch = conf("model/toy")["scratch"] | {"hidden_size": 32, "heads": 2, "intermediate_size": 64}
    save_policy(build_causal_lm(ScratchSettings(**scratch), tokenizer, seed=0), tokenizer, folders["sft"])
    pairs = {split: [Pair.of(e.messages, e.chosen, e.rejected) for e in world[split]] for split in ("train", "eval")}
    save_pairs(folders["respond"], pairs)
    settings = LoraPM(**conf("pm/toy") | {"epochs": 2})
    for name in NAMES:
        judged = [[_verdict(name, pair) for pair in pairs[split]] for split in ("train", "eval")]
        train_pm(
            pairs["train"], judged[0], pairs["eval"], judged[1], folders["sft"] / "model", settings,
            principle=name, out=folders[f"pm/{name}"], seed=1,
        )  # fmt: skip
    return folders


def _verdict(name: str, pair: Pair) -> Verdict:
    gap = score(name, pair.messages, pair.first) - score(name, pair.messages, pair.second)
    return Verdict(pair.id, 0.5 if gap == 0 else 0.9 if gap > 0 else 0.1, 0.0, True, "exact")


@pytest.fixture
def run(inputs: dict[str, Path], tmp_path: Path):
    def run(preset: str = "equal", names: tuple[str, ...] = NAMES, replace: dict[str, Path] | None = None, **change):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        config = {"weights": WeightsSettings(**conf(f"weights/{preset}") | change), "names": names}
        folders = {k: v for k, v in inputs.items() if not k.startswith("pm/") or k[3:] in names} | (replace or {})
        job = Job(
            "weigh", "weigh/morlaif", "digest", *typed(STAGE, config, folders), out, tmp_path / "keep", tmp_path / "l",
            0, HardwareSettings(**conf("hardware/cpu")), lambda step, total, metrics: None,
        )  # fmt: skip
        headline = build(job)
        return json.loads((out / "weights.json").read_text()), headline

    return run


def test_statistics_are_those_of_the_sft_responses(run, inputs) -> None:
    stored, headline = run(prompts=100)
    assert stored["names"] == list(NAMES) and stored["responses"] == 100 and stored["responses_from"] == "respond"
    assert stored["weight"] == [1, 1, 1] and stored["direction"] == [1, 1, 1] and stored["method"] == "equal"
    assert set(headline) == {f"weight/{name}" for name in NAMES}
    bank = PreferenceBank.load({name: inputs[f"pm/{name}"] for name in NAMES})
    rows = [(p.messages, text) for p in load_pairs(inputs["respond"], "train") for text in (p.first, p.second)][:100]
    scores = bank.score([messages for messages, _ in rows], [text for _, text in rows])
    objective = Objective(
        NAMES, *(torch.tensor(stored[key]) for key in ("mean", "scale", "direction", "weight")), linear
    )
    normalized = objective.normalize(scores)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_responses_are_generated_where_none_were_sampled(run, tmp_path, inputs) -> None:
    labelled = [
        Pair.of(p.messages, p.first, p.second, 1.0) for p in load_pairs(inputs["respond"], "train")
    ]  # a source's own pairs: not what the SFT model says
    save_pairs(tmp_path / "pairs", {"train": labelled, "eval": labelled[:2]})
    change = {"prompts": 12, "max_new_tokens": 8}
    first, _ = run(replace={"respond": tmp_path / "pairs"}, **change)
    again, _ = run(replace={"respond": tmp_path / "pairs"}, **change)
    assert first["responses_from"] == "generated" and first["responses"] == 12 and first == again


def test_a_zeroed_principle_leaves(run) -> None:
    stored, _ = run("zero_sycophancy")
    assert stored["weight"] == [1, 1, 0]
    alone, _ = run("zero_sycophancy", names=("sycophancy",))
    assert alone["weight"] == [1]  # of one model there is nothing to leave out


def test_given_weights(run) -> None:
    stored, _ = run("given", values={"toxicity": 2.0, "helpfulness": 0.5, "sycophancy": -1.5})
    assert stored["weight"] == [0.5, 2.0, 1.5] and stored["direction"] == [1, 1, -1]
    with pytest.raises(UserError, match="no weight for 'sycophancy'"):
        run("given", values={"toxicity": 2.0, "helpfulness": 0.5})


def test_regressed_weights(run, inputs, tmp_path) -> None:
    """Humans who want helpfulness, and flattery: what the toy judge calls sycophantic."""
    wanted = {"helpfulness": 1.5, "toxicity": 0.4, "sycophancy": -0.8}

    def utility(messages, text: str) -> float:
        return sum(weight * score(name, messages, text) for name, weight in wanted.items())

    generator = torch.Generator().manual_seed(0)
    splits: dict[str, list[Example]] = {"sft": []}
    for split in ("train", "eval"):
        rows = []
        for pair in load_pairs(inputs["respond"], split):
            gap = utility(pair.messages, pair.first) - utility(pair.messages, pair.second)
            won = torch.rand((), generator=generator) < torch.tensor(gap).sigmoid()
            texts = (pair.first, pair.second) if won else (pair.second, pair.first)
            rows.append(Example.of(pair.messages, None, *texts))
        splits[split] = rows
    save_examples(tmp_path / "data", splits)
    stored, _ = run("regressed", replace={"data": tmp_path / "data"})
    fit = stored["regression"]
    assert fit["names"] == list(NAMES) and fit["pairs"] == 160
    assert stored["direction"][0] == 1 and stored["direction"][2] == -1
    assert sum(stored["weight"]) / 3 == pytest.approx(1)
    assert fit["held_out_accuracy"]["value"] > 0.5 and fit["held_out_accuracy"]["n"] == 60
    signed = [d * w for d, w in zip(stored["direction"], stored["weight"], strict=True)]
    ratio = [s / (r * scale) for s, r, scale in zip(signed, fit["raw"], stored["scale"], strict=True)]
    assert ratio == pytest.approx([ratio[0]] * 3, rel=1e-4)  # converted from raw scores to normalised ones
    raw, _ = run("regressed", normalizer="none", replace={"data": tmp_path / "data"})
    assert raw["mean"] == [0, 0, 0] and raw["scale"] == [1, 1, 1]


def test_regression_needs_human_labels(run, tmp_path) -> None:
    plain = [Example.of([{"role": "user", "content": f"Question {i}?"}], "Answer.") for i in range(5)]
    save_examples(tmp_path / "data", {"sft": plain, "train": plain, "eval": plain})
    with pytest.raises(UserError, match="human preference"):
        run("regressed", replace={"data": tmp_path / "data"})
