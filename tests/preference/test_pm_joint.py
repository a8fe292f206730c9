"""Principles trained together come out as if each were trained alone; kinds that share a network say so."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.report import PMReport
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.05, "pooling": "last"}


@pytest.fixture(scope="module")
def data(make_pairs):
    return *make_pairs(40, 0), *make_pairs(16, 1)


@pytest.fixture(scope="module")
def more(make_pairs):
    """So many that a part can be kept apart to stop by."""
    return *make_pairs(72, 0), *make_pairs(24, 1)


def judged(verdicts, seed: int, missing: float = 0.0, turned: bool = False) -> list[Verdict]:
    """Another principle's opinion of the same pairs: noisy, with some answers missing and some ties."""
    rng = random.Random(seed)
    made = []
    for verdict in verdicts:
        p = 1 - verdict.p_first if turned else verdict.p_first
        p = 0.5 if rng.random() < 0.1 else p
        made.append(dataclasses.replace(verdict, p_first=p))
        if rng.random() < missing:
            made[-1] = dataclasses.replace(verdict, p_first=None, valid=False)
    return made


def tasks(data, out: Path, names: str) -> list[Task]:
    _, verdicts, _, held = data
    opinions = {"a": (0, 0.0, False), "b": (1, 0.2, True), "c": (2, 0.1, False), "d": (3, 0.7, False)}
    made = []
    for name in names:
        (out / name).mkdir(parents=True)
        made.append(
            Task(name, judged(verdicts, *opinions[name]), judged(held, *opinions[name]), out / name, f"{name}?")
        )
    return made


def train(data, base: Path, settings, out: Path, names: str, **more) -> dict[str, PMReport | UserError]:
    return train_pms(tasks(data, out, names), Corpus(data[0], data[2], base), settings, seed=5, **more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {f"{file}/{key}".split("/model/")[1]: value for file in files for key, value in load_file(file).items()}


ALIKE = {
    "lora": ("toy", {"lora": {"dropout": 0.2}}),
    "trunk": ("toy_trunk", {}),
    "trunk, not kept": ("toy_trunk", {"cache_gb": 0.0, "weight_decay": 0.1, "ties": "drop"}),
    "gpt2": ("toy", {"micro_batch_size": 4, "gradient_checkpointing": True}),
    "ensemble": ("toy_ensemble", {"members": 2}),
    "stopping": ("toy", {"early_stopping": {"share": 0.3, "every": 2, "patience": 2}, "epochs": 4}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ALIKE)
def test_together_is_as_apart(case: str, data, llama, gpt2, pm_settings, tmp_path) -> None:
    """Missing verdicts, ties, dropout, decay and clipping included; "d" has too few verdicts to share batches."""
    preset, change = ALIKE[case]
    settings = pm_settings(preset, **QUICK | {"max_grad_norm": 0.3} | change)
    base = gpt2 if case == "gpt2" else llama
    together = train(data, base, settings, tmp_path / "together", "abcd")
    for name in "abcd":
        alone = train(data, base, settings, tmp_path / f"alone-{name}", name)[name]
        ours, theirs = weights(tmp_path / "together" / name), weights(tmp_path / f"alone-{name}" / name)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        assert together[name].accuracy == alone.accuracy and together[name].pairs == alone.pairs


@pytest.mark.slow
def test_in_parts_is_as_at_once(data, llama, pm_settings, tmp_path) -> None:
    """`joint_tokens` and `joint` change memory and time, never a weight."""
    for name, change in (("once", {}), ("parts", {"joint_tokens": 1}), ("apart", {"joint": 1})):
        train(data, llama, pm_settings("toy", **QUICK | change), tmp_path / name, "ab")
    once = weights(tmp_path / "once" / "b")
    torch.testing.assert_close(weights(tmp_path / "parts" / "b"), once, atol=1e-4, rtol=0)
    assert all(torch.equal(value, weights(tmp_path / "apart" / "b")[key]) for key, value in
               weights(tmp_path / "parts" / "b").items())  # fmt: skip


@pytest.mark.slow
def test_a_step_without_a_verdict_is_the_same_alone(data, llama, pm_settings, tmp_path) -> None:
    """Batches of one pair: each principle meets some that it has no verdict on, where others have one."""
    settings = pm_settings("toy", **QUICK | {"batch_size": 1, "epochs": 1, "joint_tokens": 10_000})
    few = tuple(part[:12] if place < 2 else part for place, part in enumerate(data))
    train(few, llama, settings, tmp_path / "together", "ac")
    for name in "ac":
        train(few, llama, settings, tmp_path / f"alone-{name}", name)
        ours, theirs = weights(tmp_path / "together" / name), weights(tmp_path / f"alone-{name}" / name)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["toy", "toy_heads"])
def test_what_fails_loses_no_other(kind: str, data, llama, pm_settings, tmp_path) -> None:
    made = tasks(data, tmp_path, "ab")
    none = [dataclasses.replace(v, p_first=None, valid=False) for v in made[0].verdicts]
    made.append(dataclasses.replace(made[0], principle="mute", verdicts=none))
    ends = train_pms(made, Corpus(data[0], data[2], llama), pm_settings(kind, **QUICK), seed=5)
    assert isinstance(ends["mute"], UserError) and "pm/mute: none of 40 verdicts" in str(ends["mute"])
    assert isinstance(ends["a"], PMReport) and isinstance(ends["b"], PMReport)


@pytest.mark.slow
def test_a_principle_that_diverges_is_out_and_the_others_go_on(data, llama, pm_settings, tmp_path) -> None:
    """A margin without measure makes one principle's loss overflow; its neighbour learns as if it were alone."""
    # Settings refuse such a margin: it stands for whatever else makes one principle's loss overflow.
    settings = pm_settings("toy", **QUICK | {"loss": "margin"}).model_copy(update={"margin_scale": 1e38})
    _, verdicts, _, held = data
    made = []
    for name, p in (("wild", None), ("tame", 0.5 + 1e-8)):
        (tmp_path / name).mkdir()
        sided = [v if p is None else dataclasses.replace(v, p_first=p if v.p_first > 0.5 else 1 - p) for v in verdicts]
        made.append(Task(name, sided, held, tmp_path / name))
    ends = train_pms(made, Corpus(data[0], data[2], llama), settings, seed=0)
    assert "pm/wild: the loss is" in str(ends["wild"]) and "lower pm.learning_rate" in str(ends["wild"])
    assert isinstance(ends["tame"], PMReport)


@pytest.mark.slow
def test_heads_share_an_adapter_and_differ_in_their_heads(data, llama, pm_settings, tmp_path) -> None:
    ends = train(data, llama, pm_settings("toy_heads", **QUICK), tmp_path, "abc")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert [key.endswith("score.weight") for key in different] == [True]
    assert ends["a"].adapter == ends["b"].adapter and ends["a"].together == ["a", "b", "c"]
    other = train(data, llama, pm_settings("toy_heads", **QUICK), tmp_path / "fewer", "ab")
    assert other["a"].adapter != ends["a"].adapter  # a principle less is another network


@pytest.mark.slow
def test_early_stopping_keeps_the_best_and_leaves_the_reported_set_alone(more, llama, pm_settings, tmp_path) -> None:
    """At a rate that wrecks what it has learnt, the best measurement comes before the end."""
    stop = {"share": 0.3, "every": 1, "patience": 3}
    change = {"epochs": 20, "learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0}
    kept = train(more, llama, pm_settings("toy", **QUICK | change | {"early_stopping": stop}), tmp_path / "x", "b")["b"]
    last = train(more, llama, pm_settings("toy", **QUICK | change), tmp_path / "y", "b")["b"]
    assert kept.steps < last.steps == 180
    assert kept.pairs["train"] < last.pairs["train"] and kept.pairs["held_out"] == last.pairs["held_out"] == 19
    assert kept.accuracy["value"] >= last.accuracy["value"]
    again = train(more, llama, pm_settings("toy", **QUICK | change | {"early_stopping": stop}), tmp_path / "z", "b")
    assert again["b"] == kept
    assert "best of every 1 steps" in (tmp_path / "x" / "b" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_members_of_an_ensemble_differ_and_tell_how_far_they_stand_apart(
    data, llama, pm_settings, tmp_path, texts_of
) -> None:
    rows = texts_of(data[2][:8])
    scores = {}
    for rule in ("mean", "min", "uncertainty"):
        settings = pm_settings("toy_ensemble", **QUICK | {"aggregate": rule, "penalty": 2.0})
        train(data, llama, settings, tmp_path / rule, "ab")
        bank = PreferenceBank.load({name: tmp_path / rule / name for name in "ab"})
        scores[rule], deviation = bank.score(*rows), bank.deviation(*rows)
    assert deviation.shape == (16, 2) and (deviation > 0).all()
    assert (scores["min"] < scores["mean"]).all()
    torch.testing.assert_close(scores["uncertainty"], scores["mean"] - 2 * deviation.square(), atol=1e-5, rtol=0)

    report = json.loads((tmp_path / "mean" / "a" / "pm.json").read_text())
    members = []
    for member in report["members"]:  # each as a model of its own
        alone = dict(report, kind="trunk", members=None, aggregate=None, adapter=member["adapter"])
        (folder := tmp_path / member["folder"].replace("/", "-")).mkdir()
        (folder / "pm.json").write_text(json.dumps(alone))
        (folder / "model").symlink_to(tmp_path / "mean" / "a" / member["folder"])
        members.append(PreferenceBank.load({"x": folder}).score(*rows)[:, 0] - member["offset"])
    torch.testing.assert_close(torch.stack(members).mean(0), scores["mean"][:, 0], atol=1e-5, rtol=0)
    plain = PreferenceBank.load({"x": folder}).deviation(*rows)
    assert plain.isnan().all()
