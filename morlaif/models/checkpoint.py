"""What survives a kill: whole files, each with the hash of its content, and the one before the last.

<folder>/step-00000020.pt    the state           written first
<folder>/step-00000020.json  its size and hash   written last: without it the state does not exist
<folder>/best-00000010.pt    weights of the best policy so far, named by the states that need them
<folder>/kept-00000010.pt    weights that are kept for good
<folder>/samples.jsonl       responses to held-out prompts at each evaluation, to read along
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from morlaif.errors import UserError
from morlaif.models.states import all_damaged, hash_of, verified

log = logging.getLogger(__name__)
KEPT = 2
SAMPLES = "samples.jsonl"


class Checkpoints:
    """The states of one run; `fingerprint` says what they must agree with."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, step: int, state: dict[str, Any], best: int | None = None) -> None:
        """Write tensors, numbers, strings and containers of them, then forget all but the last two.

        `best`: the step of the best policy, whose weights must stay.
        """
        path = self._path(step)
        _write(path, lambda file: torch.save(state, file))
        facts = {
            "step": step, "best": best, "fingerprint": self.fingerprint,
            "size": path.stat().st_size, "sha256": hash_of(path),
        }  # fmt: skip
        _write(path.with_suffix(".json"), lambda file: file.write(json.dumps(facts).encode()))
        self._prune()

    def last(self) -> int | None:
        """The step of the last state that is whole, or None where none was ever saved; what is damaged is removed.

        Raises:
            UserError: all are damaged, or they belong to a run with other settings or another seed.
        """
        for partial in self.folder.glob("*.partial"):  # left by a kill in the middle of a write
            partial.unlink()
        manifests = sorted(self.folder.glob("step-*.json"), reverse=True)
        damaged = list[tuple[Path, Exception]]()
        for manifest in manifests:
            path = manifest.with_suffix(".pt")
            try:
                facts = verified(manifest)
            except (OSError, ValueError, KeyError) as error:
                damaged.append((path, error))
                continue
            if facts["fingerprint"] != self.fingerprint:
                raise UserError(
                    f"{path}: this checkpoint belongs to other settings or another seed; remove {self.folder} to begin "
                    "anew"
                )
            for wrong, why in damaged:
                step = facts["step"]
                log.warning("%s is damaged (%s); the run goes on from the checkpoint of step %d", wrong, why, step)
            for other in manifests[: len(damaged)]:
                other.unlink()
                other.with_suffix(".pt").unlink(missing_ok=True)
            return facts["step"]
        if damaged:
            raise UserError(all_damaged(*damaged[0]))
        return None

    def load(self, step: int, mmap: bool = False) -> dict[str, Any]:
        """`mmap`: the ranks of a node share one copy in memory, which is read where it is used."""
        return torch.load(self._path(step), map_location="cpu", weights_only=True, mmap=mmap)

    def save_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The table of responses so far, for whoever wants to read along."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write(self.folder / SAMPLES, lambda file: file.write(lines.encode()))

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        _write(self._best(step), lambda file: torch.save(weights, file))
        self._prune(step)

    def load_best(self, step: int) -> dict[str, Tensor]:
        return torch.load(self._best(step), map_location="cpu", weights_only=True)

    def save_kept(self, step: int, weights: dict[str, Tensor]) -> None:
        _write(self._kept(step), lambda file: torch.save(weights, file))

    def load_kept(self, step: int) -> dict[str, Tensor]:
        return torch.load(self._kept(step), map_location="cpu", weights_only=True)

    def _prune(self, best: int | None = None) -> None:
        """Forget states but the last two, and best weights that neither these nor the run at `best` need."""
        manifests = sorted(self.folder.glob("step-*.json"))
        for manifest in manifests[:-KEPT]:
            manifest.unlink()  # first: a state without it does not exist
        for path in self.folder.glob("step-*.pt"):
            if path.with_suffix(".json") not in manifests[-KEPT:]:
                path.unlink()
        needed = {best} | {json.loads(manifest.read_text())["best"] for manifest in manifests[-KEPT:]}
        for path in self.folder.glob("best-*.pt"):
            if int(path.stem.removeprefix("best-")) not in needed:
                path.unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.pt"

    def _kept(self, step: int) -> Path:
        return self.folder / f"kept-{step:08d}.pt"


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """In one move: whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
