"""Checkpoints of a training of preference models, from which a killed one goes on.

<keep>/<identity>-<member>-<principles>/step-00000050.pt    one fit: see `PMTrainer.state`

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
from typing import Any

import torch
from torch import Tensor

from morlaif import ranks
from morlaif.errors import UserError
from morlaif.models.checkpoint import Checkpoints

log = logging.getLogger("morlaif.preference")
FACTS = "facts.json"  # beside the states: whose they are
FORMAT = 3  # raise it when `PMTrainer.state` or the facts change: older checkpoints are then not found
State = dict[str, Any]


class TrainingCheckpoints:
    """All checkpoints of one training."""

    def __init__(self, keep: Path, identity: Any, fingerprints: Mapping[str, str], apart: bool) -> None:
        """identity: all that every fit depends on, as JSON. fingerprints: of each principle, a hash of what it learns
        from. apart: whether each principle's weights are its own."""
        self.keep, self.fingerprints, self.apart = keep, fingerprints, apart
        self.identity = _short(json.dumps([FORMAT, identity], sort_keys=True))
        self.found: list[_Found] = ranks.on_first(self._whole)

    def place(self, name: str, member: int = 0) -> str | None:
        """The folder that principle `name` goes on from. Those with the same one are at the same step."""
        own = self.fingerprints[name]
        fitting = [one for one in self.found if one.member == member and one.fingerprints.get(name) == own]
        return max(fitting, key=lambda one: one.step).folder if fitting else None

    def of(self, names: Sequence[str], member: int = 0) -> FitCheckpoint:
        """Where the fit of `names` is kept, and what it goes on from."""
        fingerprints = {name: self.fingerprints[name] for name in names}
        own = f"{self.identity}-{member}-{_short(json.dumps(fingerprints))}"
        wanted = {self.place(name, member) for name in names}
        begun = next((one for one in self.found if wanted == {one.folder}), None)
        if begun is not None and not self.apart and list(begun.fingerprints) != list(names):
            begun = None
        source = None if begun is None else (self._checkpoints(begun.folder), begun.step)
        return FitCheckpoint(self._checkpoints(own), {"member": member, "fingerprints": fingerprints}, source)

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
                found.append(_Found(folder.name, step, facts["member"], facts["fingerprints"]))
        return found


@dataclass(frozen=True)
class _Found:
    folder: str
    step: int
    member: int
    fingerprints: dict[str, str]  # of the principles, in their order


@dataclass(frozen=True)
class FitCheckpoint:
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


def generator_state(device: torch.device) -> Tensor:
    """State of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_generator_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
