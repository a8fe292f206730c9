"""Preference models on two gloo processes whose base lies in parts (ZeRO-3) against the same in one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest.mock import patch

import numpy as np
import processes
import pytest
import torch
import zero

from morlaif import ranks, sharded
from morlaif.preference import session
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

pytestmark = [pytest.mark.slow, zero.NEEDED]

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.05, "max_grad_norm": 0.3}
KINDS = {
    "lora": ("toy", {"micro_batch_size": 2, "gradient_checkpointing": True}),
    "trunk": ("toy_trunk", {}),
    "trunk, not kept": ("toy_trunk", {"cache_gb": 0.0}),
    "ensemble": ("toy_ensemble", {"members": 2}),
    "heads": ("toy_heads", {}),
    "conditioned": ("toy_conditioned", {}),
    "stopping": ("toy", {"early_stopping": {"share": 0.3, "every": 1, "patience": 2}}),
}


def train_and_score(cases: dict, texts: tuple, counts: tuple[int, ...]) -> dict:
    """Losses, accuracy, scores of the first `counts[rank]` texts, parts of the base, and those kept by one rank."""
    if ranks.count() > 1:
        kept = zero.parts()
    bases = []
    load = session.load_classifier

    def loaded(*args, **how):
        bases.append(load(*args, **how))
        return bases[-1]

    found = {}
    for name, (tasks, corpus, settings) in cases.items():
        losses: list[dict[str, float]] = []
        with patch.object(session, "load_classifier", loaded):  # to look at the base; it is the real one
            ends = train_pms(
                tasks, corpus, settings, seed=5, on_step=lambda step, steps, loss, to=losses: to.append(loss)
            )
        trunk = bases[-1].model
        split = [p for p in trunk.parameters() if sharded.is_sharded(p)]
        whole = [p.ds_summary() for p in split if p.ds_tensor.numel() > -(-p.ds_numel // 2)]  # kept by one rank
        bank = PreferenceBank.load({task.principle: task.out for task in tasks}, corpus.base, tokens=64)
        some = counts[ranks.rank()]
        scores = bank.score(texts[0][:some], texts[1][:some])
        found[name] = (losses, {key: end.accuracy for key, end in ends.items()}, scores, len(split), whole)
    if ranks.count() > 1:
        del kept
    return found


@pytest.mark.timeout(300)
def test_every_kind_learns_and_scores_in_parts_as_whole(llama, make_pairs, pm_settings, texts_of, tmp_path):
    """The last batch is odd, verdicts are missing, and one rank has no response to score."""
    pairs, verdicts = make_pairs(21, 0)
    held, held_verdicts = make_pairs(9, 1)
    other = [dataclasses.replace(v, p_first=1 - v.p_first) for v in verdicts[4:]]

    def cases(folder: Path) -> dict:
        made = {}
        for name, (preset, change) in KINDS.items():
            settings = pm_settings(preset, **QUICK | change)
            tasks = []
            for principle, given in (("a", verdicts), ("b", other), ("c", verdicts[::2])):
                (out := folder / name / principle).mkdir(parents=True)
                tasks.append(Task(principle, given, held_verdicts, out, f"{principle}?"))
            made[name] = (tasks, Corpus(pairs, held, llama), settings)
        return made

    texts = texts_of(held)
    one = train_and_score(cases(tmp_path / "one"), texts, (11,))
    two = processes.run(
        train_and_score, cases(tmp_path / "two"), texts, (11, 0), folder=tmp_path / "run", ranks=2, timeout=200
    )
    for name in KINDS:
        losses, accuracy, scores, split, _ = one[name]
        assert split == 0 and two[0][name][3] >= 20 and two[0][name][4] == [], name
        assert len(losses) == len(two[0][name][0]) > 2
        for first, second in zip(losses, two[0][name][0], strict=True):
            assert first == pytest.approx(second, rel=1e-4, abs=1e-5), name
        assert accuracy == two[0][name][1] == two[1][name][1], name
        np.testing.assert_allclose(two[0][name][2], scores, atol=2e-4, err_msg=name)
        assert two[1][name][2].shape == (0, 3) and torch.isfinite(scores).all()
