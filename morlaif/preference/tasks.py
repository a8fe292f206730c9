"""What preference models are trained on: what each has of its own, and what all of one training share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from morlaif.data.records import Pair
from morlaif.feedback.records import Verdict
from morlaif.models.place import Source
from morlaif.preference.sets import instructed
from morlaif.preference.settings import ConditionedPM


@dataclass(frozen=True)
class Task:
    """One preference model to train."""

    principle: str
    verdicts: Sequence[Verdict]
    held_verdicts: Sequence[Verdict]
    out: Path  # gets `model/` (Hugging Face or peft format) and `pm.json`
    question: str | None = None  # the principle's own words: what is better under it?
    description: str | None = None

    @property
    def text(self) -> str | None:
        return " ".join(part for part in (self.question, self.description) if part) or None

    def instruction(self, settings: ConditionedPM) -> str:
        """What a conditioned model reads about the principle."""
        question = self.question or settings.overall
        return instructed(settings.instruction, self.principle, question, self.description or "")

    def fingerprint(self, probability: Tensor) -> str:
        """Short hash of what is learnt under this principle: its words, and (N,) its judge's probabilities."""
        taught = f"{self.principle}: {self.text}\n".encode() + probability.contiguous().numpy().tobytes()
        return hashlib.sha256(taught).hexdigest()[:16]


@dataclass(frozen=True)
class Corpus:
    """What all tasks of one training share."""

    pairs: Sequence[Pair]
    held_pairs: Sequence[Pair]
    base: str | Path | Source | None  # None: of kinds that start from nothing
    revision: str | None = None
    own_base: bool = True  # the base is the run's own SFT model, wherever the store may lie later
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @property
    def source(self) -> Source:
        if self.base is None:
            raise ValueError("this corpus has no base")
        return Source.of(self.base, revision=self.revision, key="model.path" if self.own_base else "pm.base")
