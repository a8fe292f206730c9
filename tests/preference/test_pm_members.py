"""Ensembles whose members learn in one pass, and what is made of their disagreement."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from morlaif.errors import UserError
from morlaif.models.adapters import read_adapter
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.members import bootstrap_counts, nuclear_norm
from morlaif.preference.report import read_report
from morlaif.preference.scorers import aggregate
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 0.02, "head_learning_rate": 0.05, "pooling": "last"}


@pytest.fixture(scope="module")
def data(make_pairs):
    return (*make_pairs(24, 0), *make_pairs(8, 1))


@pytest.fixture
def trained(data, llama, pm_settings, tmp_path):
    def train(names: str = "a", keep: Path | None = None, **change) -> dict[str, Path]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        tasks = []
        for name in names:
            (root / name).mkdir(parents=True)
            tasks.append(Task(name, data[1], data[3], root / name, f"Which is {name}?", "Words."))
        settings = pm_settings("toy_ensemble", **QUICK | {"member": "lora"} | change)
        for end in train_pms(tasks, Corpus(data[0], data[2], llama), settings, seed=1, keep=keep).values():
            if isinstance(end, UserError):
                raise end
        return {name: root / name for name in names}

    return train


def members(folder: Path) -> list[dict]:
    return read_report("a", folder).members or []


def spread(folder: Path) -> float:
    """‖[A₁; …; A_M]‖* averaged over layers, from what was written."""
    adapters = [read_adapter(folder / member["folder"], "a").layers for member in members(folder)]
    return sum(float(nuclear_norm(torch.stack([own[name][0] for own in adapters]))) for name in adapters[0]) / len(
        adapters[0]
    )


def test_the_lower_bound_without_a_penalty_is_the_mean() -> None:
    scores = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(aggregate(scores, "lcb", 0.0), scores.mean(-1))
    assert torch.allclose(aggregate(scores, "lcb", 2.0), scores.mean(-1) - 2 * scores.std(-1, correction=0))
    alike = torch.full((3, 4), 0.7)
    assert torch.allclose(aggregate(alike, "lcb", 9.0), alike.mean(-1))
    # unlike the variance it scales with the scores
    assert torch.allclose(aggregate(3 * scores, "lcb", 1.0), 3 * aggregate(scores, "lcb", 1.0), atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_nuclear_norm_at_its_extremes(count) -> None:
    rank, width = 4, 32
    one = torch.randn(rank, width, generator=torch.Generator().manual_seed(1))
    alone = float(nuclear_norm(one[None]))
    assert alone == pytest.approx(float(torch.linalg.svdvals(one).sum()), rel=1e-5)
    assert float(nuclear_norm(one.expand(count, -1, -1))) == pytest.approx(math.sqrt(count) * alone, rel=1e-5)
    rows = torch.zeros(count, rank, width)  # the same singular values, on axes of each one's own
    for member in range(count):
        rows[member, :, member * rank : (member + 1) * rank] = torch.diag(torch.linalg.svdvals(one))
    assert float(nuclear_norm(rows)) == pytest.approx(count * alone, rel=1e-5)


def test_a_bootstrap_draws_as_many_pairs_as_there_are_to_learn_from() -> None:
    learnt = [1, 2, 5, 7]
    counts = bootstrap_counts(9, learnt, torch.Generator().manual_seed(3))
    assert counts.sum() == len(learnt)
    assert not counts[[0, 3, 4, 6, 8]].any()
    other = bootstrap_counts(9, learnt, torch.Generator().manual_seed(4))
    assert not torch.equal(counts, other)


@pytest.mark.slow
def test_heads_have_one_adapter_and_disagree(trained, data, texts_of) -> None:
    folder = trained("ab", member="heads", aggregate="lcb", penalty=1.0)
    own = members(folder["a"])
    assert len({member["adapter"] for member in own}) == 1
    heads = torch.cat([read_adapter(folder["a"] / member["folder"], "a").head for member in own])
    assert torch.pdist(heads).min() > 0
    assert len({read_report(name, folder[name]).adapter for name in "ab"}) == 2

    prompts, responses = texts_of(data[2][:6])
    bank = PreferenceBank.load(folder)
    apart = bank.deviation(prompts, responses)
    assert (apart > 0).all()
    reports = {name: read_report(name, folder[name]) for name in "ab"}
    for report in reports.values():  # the same models, read as a mean
        report.aggregate["penalty"] = 0.0  # type: ignore[index]
        report.save(folder[report.principle])
    mean = PreferenceBank.load(folder).score(prompts, responses)
    assert torch.allclose(bank.score(prompts, responses), mean - apart, atol=1e-5)


@pytest.mark.slow
def test_members_share_an_adapter_for_their_first_steps(trained) -> None:
    steps = 3  # 24 pairs, 8 a step
    shared = members(trained(shared_steps=steps)["a"])
    assert len({member["adapter"] for member in shared}) == 1
    parted = members(trained(shared_steps=steps - 1)["a"])
    assert len({member["adapter"] for member in parted}) == len(parted)


@pytest.mark.slow
def test_diversity_raises_the_nuclear_norm(trained) -> None:
    plain, diverse = trained(shared_steps=1), trained(shared_steps=1, diversity=0.1)
    assert spread(diverse["a"]) > 1.02 * spread(plain["a"])


@pytest.mark.slow
@pytest.mark.parametrize("member", ["lora", "trunk", "heads"])
def test_members_that_resample_the_pairs_differ_more(trained, data, texts_of, member) -> None:
    prompts, responses = texts_of(data[2])
    apart = [
        PreferenceBank.load(trained(member=member, bootstrap=bootstrap)).deviation(prompts, responses).mean()
        for bootstrap in (False, True)
    ]
    assert apart[0] != apart[1]


@pytest.mark.slow
def test_each_principle_learns_as_if_it_were_alone(trained) -> None:
    """In one pass with another principle or by itself: members in one pass move no other principle."""
    for change in ({"member": "heads", "bootstrap": True}, {"diversity": 0.05, "shared_steps": 1}):
        beside, alone = trained("ab", **change)["a"], trained("a", **change)["a"]
        for one, other in zip(members(beside), members(alone), strict=True):
            first, second = read_adapter(beside / one["folder"], "a"), read_adapter(alone / other["folder"], "a")
            assert torch.allclose(first.head, second.head, atol=1e-4)
            for name, (down, up) in first.layers.items():
                assert torch.allclose(down, second.layers[name][0], atol=1e-4)
                assert torch.allclose(up, second.layers[name][1], atol=1e-4)


@pytest.mark.slow
def test_a_killed_training_of_members_goes_on(trained, tmp_path_factory, monkeypatch) -> None:
    from morlaif.preference.trainer import PMTrainer

    for change in ({"member": "heads", "bootstrap": True}, {"diversity": 0.05, "shared_steps": 1}):
        keep = tmp_path_factory.mktemp("keep")
        whole = trained("ab", checkpoint_every=1, **change)
        step = PMTrainer.step

        def killed(self, batch, step=step):
            if len(self.losses) == 2:
                raise KeyboardInterrupt
            step(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(PMTrainer, "step", killed)
            with pytest.raises(KeyboardInterrupt):
                trained("ab", keep=keep, checkpoint_every=1, **change)
        # and in another company
        went_on = trained("ab", keep=keep, checkpoint_every=1, joint=1, **change)
        for name in "ab":
            for one, other in zip(members(whole[name]), members(went_on[name]), strict=True):
                first, second = (
                    read_adapter(root[name] / part["folder"], name) for root, part in ((whole, one), (went_on, other))
                )
                assert torch.allclose(first.head, second.head, atol=1e-4)
                assert all(torch.allclose(first.layers[k][1], second.layers[k][1], atol=1e-4) for k in first.layers)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"diversity": 0.1}, "diversity"), ({"shared_steps": 2}, "shared_steps")],
)
def test_what_one_adapter_cannot_have_is_refused(pm_settings, change, named) -> None:
    with pytest.raises(ValueError, match=named):
        pm_settings("toy_ensemble", member="heads", **change)
