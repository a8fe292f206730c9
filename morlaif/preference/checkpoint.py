"""Where a training of preference models stands, kept on disk, so that a killed one goes on from there.

<keep>/<identity>-<member>-<principles>/step-00000050.pt    one `fit`: see `Standing`

A training makes one fit after another: of each principle, of each group of principles, of each member of an ensemble.
Each has a folder of its own, and what is finished stays. The folder's name says all that the fit depends on, so that
what does not fit is not found, and the training begins anew. Principles whose weights are apart need not go on in the
company in which they were saved: another number of ranks may take fewer of them at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from morlaif import ranks
from morlaif.errors import UserError
from morlaif.models.checkpoint import Checkpoints
from morlaif.preference.learners import Learner

if TYPE_CHECKING:
    from morlaif.preference.updates import Updates

log = logging.getLogger("morlaif.preference")
FACTS = "facts.json"  # beside the states: whose they are
FORMAT = 1  # raise it when `Standing.state` changes: older checkpoints are then not found
State = dict[str, Any]


class Saved:
    """All checkpoints of one training."""

    def __init__(self, keep: Path, identity: Any, marks: Mapping[str, str], apart: bool) -> None:
        """identity: all that every fit depends on, as JSON. marks: of each principle, a hash of what it learns from.
        apart: whether each principle's weights are its own."""
        self.keep, self.marks, self.apart = keep, marks, apart
        self.identity = _short(json.dumps([FORMAT, identity], sort_keys=True))
        self.found: list[_Found] = ranks.on_first(self._whole)

    def place(self, name: str, member: int = 0) -> str | None:
        """The folder that principle `name` goes on from. Those with the same one stand at the same step."""
        fitting = [one for one in self.found if one.member == member and one.marks.get(name) == self.marks[name]]
        return max(fitting, key=lambda one: one.step).folder if fitting else None

    def slot(self, names: Sequence[str], member: int = 0) -> Slot:
        """Where the fit of `names` is kept, and what it goes on from."""
        marks = {name: self.marks[name] for name in names}
        own = f"{self.identity}-{member}-{_short(json.dumps(marks))}"
        wanted = {self.place(name, member) for name in names}
        (begun,) = [one for one in self.found if wanted == {one.folder}] or [None]
        if begun is not None and not self.apart and list(begun.marks) != list(names):
            begun = None
        source = begun and (self._checkpoints(begun.folder), begun.step)
        return Slot(self._checkpoints(own), {"member": member, "marks": marks}, source)

    def _checkpoints(self, folder: str) -> Checkpoints:
        return Checkpoints(self.keep / folder, self.identity)

    def _whole(self) -> list[_Found]:
        """What there is of whole states; what is damaged is removed."""
        found = []
        for folder in sorted(self.keep.glob(f"{self.identity}-*")):
            try:
                facts = json.loads((folder / FACTS).read_text())
                step = self._checkpoints(folder.name).last()
            except (UserError, OSError, ValueError) as error:
                log.warning("%s: this training begins anew", str(error).partition(", and no other")[0])
                shutil.rmtree(folder)
                continue
            if step is not None:
                found.append(_Found(folder.name, step, facts["member"], facts["marks"]))
        return found


@dataclass(frozen=True)
class _Found:
    folder: str
    step: int
    member: int
    marks: dict[str, str]  # of the principles, in their order


@dataclass(frozen=True)
class Slot:
    """The checkpoints of one fit."""

    checkpoints: Checkpoints
    facts: dict[str, Any]  # what is fitted
    source: tuple[Checkpoints, int] | None  # where a killed training left its state, and at which step

    def load(self) -> State | None:
        if self.source is None:
            return None
        checkpoints, step = self.source
        return checkpoints.load(step, mmap=True)

    def save(self, step: int, state: State) -> None:
        def write() -> None:
            facts = self.checkpoints.folder / FACTS
            if not facts.is_file():
                facts.parent.mkdir(parents=True, exist_ok=True)
                facts.write_text(json.dumps(self.facts))
            self.checkpoints.save(step, state)

        ranks.on_first(write)


class Resumable(Protocol):
    """A part of a fit with a state of its own."""

    def state(self) -> State: ...

    def load(self, state: State, units: Sequence[int]) -> None: ...


@dataclass
class Standing:
    """All that moves while a learner is fitted. The batches follow from the seed and the number of steps so far."""

    learner: Learner
    updates: Updates
    best: Resumable
    losses: list[list[float]]  # (steps, K)
    failed: dict[int, UserError]
    device: torch.device

    def state(self, done: bool = False) -> State:
        """On every rank, since the noise of each is part of it. Of a fit that is `done`, only what came of it."""
        state: State = {
            "step": len(self.losses), "done": done, "names": list(self.learner.names),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "failed": {self.learner.names[k]: str(error) for k, error in self.failed.items()},
            "updates": self.updates.state(done),
        }  # fmt: skip
        if not done:
            state |= {"best": self.best.state(), "device": self.device.type, "noise": ranks.gather(_noise(self.device))}
        return state

    def resume(self, slot: Slot) -> bool:
        """Go on from what is kept there, if anything is; whether nothing is left to do."""
        state = slot.load()
        if state is None:
            return False
        self.load(state)
        return state["done"]

    def load(self, state: State) -> None:
        """Put back what `state` gave, for the learner's principles, in the same company or another."""
        names = list(self.learner.names)
        rows = [state["names"].index(name) for name in names]
        same = names == state["names"]
        self.updates.load(state["updates"], state["done"], lambda tensor: tensor if same else tensor[rows])
        self.losses[:] = state["losses"][:, rows].tolist()
        for k, name in enumerate(names):
            if name in state["failed"]:
                self.failed[k] = UserError(state["failed"][name])
        if state["done"]:
            return
        self.best.load(state["best"], rows if self.learner.apart else [0])
        if state["device"] == self.device.type and len(state["noise"]) == ranks.count():
            _set_noise(self.device, state["noise"][ranks.rank()])
        else:  # other ranks draw anew
            torch.manual_seed(torch.initial_seed() + 7919 * state["step"])


def _noise(device: torch.device) -> Tensor:
    """State of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_noise(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
