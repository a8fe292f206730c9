"""A preference model's training that is killed goes on from its checkpoint, and comes to what it would have come to."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path

import processes
import pytest
import torch
from safetensors.torch import load_file

from morlaif.errors import UserError
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

pytestmark = pytest.mark.slow

QUICK = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.05, "checkpoint_every": 4}
DROPOUT = {"lora": {"dropout": 0.2}}
OPINIONS = {"a": (0.0, False), "b": (0.2, True), "c": (0.1, False), "d": (0.7, False)}  # missing, turned


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def data(make_pairs):
    return (*make_pairs(40, 0), *make_pairs(10, 1))  # 5 steps an epoch


def tasks(data, out: Path, names: str) -> list[Task]:
    """Each principle with an opinion of its own; "d" has so few verdicts that its batches are its own, too."""
    made = []
    for name in names:
        rng, (missing, turned) = random.Random(name), OPINIONS[name]
        given = []
        for verdict in data[1]:
            p = 1 - verdict.p_first if turned else verdict.p_first
            lost = rng.random() < missing
            given.append(dataclasses.replace(verdict, p_first=None if lost else p, valid=not lost))
        (out / name).mkdir(parents=True, exist_ok=True)
        made.append(Task(name, given, data[3], out / name, f"{name}?"))
    return made


class Training:
    """One training that may be killed and started again; keeps what it tells."""

    def __init__(self, data, base: Path, settings, folder: Path, names: str) -> None:
        self.data, self.base, self.settings, self.folder, self.names = data, base, settings, folder, names
        self.told: list[tuple[int, dict[str, float]]] = []

    def run(self, kill_after: int | None = None, **change):
        """Killed at the call after that many steps of this run."""
        left = kill_after

        def on_step(step: int, steps: int, losses: dict[str, float]) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left = left and left - 1
            self.told.append((step, losses))

        settings = self.settings.model_copy(update=change)
        corpus = Corpus(self.data[0], self.data[2], self.base)
        made = tasks(self.data, self.folder / "out", self.names)
        return train_pms(made, corpus, settings, seed=5, on_step=on_step, keep=self.folder / "keep")

    def losses(self) -> dict[tuple[int, str], float]:
        """The last that was told of each step, as a run writes it down."""
        return {(step, name): loss for step, losses in self.told for name, loss in losses.items()}

    def files(self) -> dict[str, torch.Tensor | str]:
        """All that was left behind."""
        out, found = self.folder / "out", {}
        for file in sorted(out.rglob("*.safetensors")):
            found |= {f"{file.relative_to(out)}/{key}": value for key, value in load_file(file).items()}
        return found | {str(file.relative_to(out)): file.read_text() for file in sorted(out.rglob("pm.json"))}


def assert_same(one: Training, other: Training) -> None:
    ours, theirs = one.files(), other.files()
    assert ours.keys() == theirs.keys() and len(ours) > len(one.names)
    for name, value in ours.items():
        same = value == theirs[name] if isinstance(value, str) else torch.equal(value, theirs[name])
        assert same, name
    assert one.losses() == other.losses()


STOPPING = {"early_stopping": {"share": 0.3, "every": 2, "patience": 7}, "learning_rate": 0.1, "epochs": 9}
KINDS = {
    "lora": ("toy", "a", DROPOUT | {"weight_decay": 0.1}),
    "lora, joint": ("toy", "abcd", DROPOUT),
    "lora, in parts": ("toy", "abcd", DROPOUT | {"joint_tokens": 1, "epochs": 2}),
    "trunk": ("toy_trunk", "abd", DROPOUT),
    "ensemble": ("toy_ensemble", "abd", DROPOUT | {"members": 2}),
    "heads": ("toy_heads", "abc", DROPOUT),
    "conditioned": ("toy_conditioned", "abc", DROPOUT),
    "full": ("toy_full", "ab", {}),
    "stopping": ("toy", "abd", DROPOUT | STOPPING),
    "heads, stopping": ("toy_heads", "ab", DROPOUT | STOPPING),
}
ONE_AFTER_ANOTHER = {"lora, in parts", "ensemble", "full"}  # fits, of which a later one is killed, too


@pytest.mark.parametrize("case", KINDS)
def test_killed_at_any_time_it_ends_the_same_bit_by_bit(case: str, data, llama, gpt2, pm_settings, tmp_path) -> None:
    """Killed before its first checkpoint, at one, between two, and again after it has gone on."""
    preset, names, change = KINDS[case]
    settings = pm_settings(preset, **QUICK | {"epochs": 2} | change)
    base = gpt2 if case == "full" else llama  # gpt2 has dropout of its own
    whole = Training(data, base, settings, tmp_path / "whole", names)
    ends = whole.run(checkpoint_every=None)
    assert not list((tmp_path / "whole").rglob("step-*"))
    killed = Training(data, base, settings, tmp_path / "killed", names)
    for after in (3, 5, 4, 6) if case in ONE_AFTER_ANOTHER else (3, 5, 4):
        with pytest.raises(Killed):
            killed.run(kill_after=after)
    assert killed.run() == ends
    assert_same(whole, killed)
    steps = [step for step, _ in killed.told]
    assert steps[:3] == [1, 2, 3] and steps[3:8] == [1, 2, 3, 4, 5] and steps[8] == 5
    assert len(steps) <= len(whole.told) + 3 + 4 * 4  # what came before a checkpoint was not made again


def test_a_finished_fit_is_not_made_again(data, llama, pm_settings, tmp_path) -> None:
    training = Training(data, llama, pm_settings("toy_ensemble", **QUICK), tmp_path, "ad")
    ends = training.run()
    first = training.files()
    training.told.clear()
    assert training.run() == ends and training.told == []
    assert all(torch.equal(value, first[name]) for name, value in training.files().items() if not name.endswith("json"))


def test_principles_go_on_in_other_company(data, llama, pm_settings, tmp_path) -> None:
    """As where another number of ranks takes fewer of them at once, or a principle has come to them."""
    settings = pm_settings("toy", **QUICK | DROPOUT)
    whole = Training(data, llama, settings, tmp_path / "whole", "abc")
    whole.run()
    for case, names, change in (("fewer", "abc", {"joint": 1}), ("more", "bcda", {}), ("other order", "cba", {})):
        killed = Training(data, llama, settings, tmp_path / case, "abc")
        with pytest.raises(Killed):
            killed.run(kill_after=9)
        killed.names = names
        killed.run(**change)
        assert [step for step, losses in killed.told if "a" in losses].count(8) == 1, case
        ours = {name: value for name, value in killed.files().items() if name[0] != "d" and "json" not in name}
        for name, value in ours.items():
            torch.testing.assert_close(value, whole.files()[name], atol=1e-4, rtol=0, msg=f"{case}: {name}")
        assert {at: loss for at, loss in killed.losses().items() if at[1] != "d"} == pytest.approx(
            whole.losses(), rel=1e-4
        )


@pytest.mark.parametrize("preset", ["toy", "toy_heads"])
def test_what_does_not_fit_is_let_lie(preset: str, data, make_pairs, llama, gpt2, pm_settings, tmp_path) -> None:
    settings = pm_settings(preset, **QUICK)
    killed = Training(data, llama, settings, tmp_path, "ab")
    with pytest.raises(Killed):
        killed.run(kill_after=9)
    turned = [dataclasses.replace(v, p_first=1 - v.p_first) for v in data[1]]
    changes = {
        "settings": {"settings": settings.model_copy(update={"learning_rate": 0.02})},
        "base": {"base": gpt2},
        "pairs": {"data": (*make_pairs(40, 7), *data[2:])},
        "verdicts": {"data": (data[0], turned, *data[2:])},
    } | ({"company": {"names": "abc"}} if preset == "toy_heads" else {})
    for name, change in changes.items():
        other = Training(data, llama, settings, tmp_path, "ab")
        vars(other).update(change)
        with pytest.raises(Killed):
            other.run(kill_after=1, checkpoint_every=None)
        assert other.told[0][0] == 1, name
    with pytest.raises(Killed):
        killed.run(kill_after=1)
    assert killed.told[-1][0] == 9


def test_damaged_files_cost_steps_not_the_training(data, llama, pm_settings, tmp_path, caplog) -> None:
    """The one before the last is taken; with that broken too the training begins anew, and so without its facts."""
    settings = pm_settings("toy", **QUICK | DROPOUT)
    whole = Training(data, llama, settings, tmp_path / "whole", "ab")
    whole.run()
    killed = Training(data, llama, settings, tmp_path / "killed", "ab")
    with pytest.raises(Killed):
        killed.run(kill_after=9)
    (folder,) = (tmp_path / "killed" / "keep").iterdir()

    def first_step_after(*names: str, kill_after: int = 6) -> int:
        for name in names:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: len(content) // 2])
        (folder / "step-00000099.pt.1.partial").write_bytes(b"half")
        began = len(killed.told)
        with pytest.raises(Killed):
            killed.run(kill_after=kill_after)
        return killed.told[began][0]

    assert first_step_after("step-00000008.pt") == 5
    assert first_step_after("step-00000004.pt", "step-00000008.pt", kill_after=9) == 1
    assert "begins anew" in caplog.text
    assert first_step_after("facts.json", kill_after=9) == 1
    killed.run()
    assert_same(whole, killed)
    assert len(list(folder.glob("step-*.pt"))) == 2


def test_a_principle_that_was_out_stays_out(data, llama, pm_settings, tmp_path) -> None:
    # Settings refuse such a margin: it stands for whatever else makes one principle's loss overflow.
    settings = pm_settings("toy", **QUICK | {"loss": "margin"}).model_copy(update={"margin_scale": 1e38})
    made = tasks(data, tmp_path, "ab")
    tame = [dataclasses.replace(v, p_first=0.5 + (1e-8 if v.p_first > 0.5 else -1e-8)) for v in data[1]]
    made[1] = dataclasses.replace(made[1], verdicts=tame)

    def run(keep: str, kill_after: int = 99):
        def on_step(step: int, steps: int, losses: dict[str, float]) -> None:
            if step > kill_after:
                raise Killed

        return train_pms(made, Corpus(data[0], data[2], llama), settings, seed=0, on_step=on_step, keep=tmp_path / keep)

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", kill_after=5)
    ends = run("killed")
    assert isinstance(ends["a"], UserError) and str(ends["a"]) == str(whole["a"]) and ends["b"] == whole["b"]


def train_on_ranks(data, base: Path, settings, folder: Path, kill_after: int | None) -> dict:
    """Losses by step; each rank's own. `kill_after` is the step after which all of them are killed."""
    training = Training(data, base, settings, folder, "abc")
    try:
        training.run(kill_after)
    except Killed:
        assert kill_after is not None
    return training.losses()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("preset", ["toy", "toy_heads"])
def test_another_number_of_ranks_goes_on(preset: str, data, llama, pm_settings, tmp_path) -> None:
    settings = pm_settings(preset, **QUICK | {"max_grad_norm": 0.3})
    whole = train_on_ranks(data, llama, settings, tmp_path / "whole", None)

    def on(count: int, folder: Path, kill_after: int | None) -> dict:
        if count == 1:
            return train_on_ranks(data, llama, settings, folder, kill_after)
        given = (data, llama, settings, folder, kill_after)
        first, second = processes.run(train_on_ranks, *given, folder=folder / f"ranks-{kill_after}", ranks=2)
        assert first == second
        return first

    started = {count: on(count, tmp_path / str(count), 9) for count in (1, 2)}
    for before, after in ((2, 1), (1, 2), (2, 2)):
        folder = tmp_path / f"{before}-{after}"
        shutil.copytree(tmp_path / str(before), folder)
        begun, ended = started[before], on(after, folder, None)
        assert min(step for step, _ in ended) == 9
        assert begun | ended == pytest.approx(whole, rel=1e-4, abs=1e-5)
