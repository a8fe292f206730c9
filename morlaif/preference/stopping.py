"""Early stopping: the best weights so far, for each principle, by accuracy on pairs that it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from morlaif.preference.checkpoint import State
from morlaif.preference.learners import Learner, Texts, score_texts
from morlaif.preference.metrics import agreement
from morlaif.preference.settings import EarlyStopping
from morlaif.preference.updates import Updates

KEPT = ("value", "waited", "weights", "measured")  # what a checkpoint holds


class EarlyStopper:
    """Principles whose weights are apart stop each on its own, the others together: U units that wait."""

    def __init__(
        self,
        learner: Learner,
        updates: Updates,
        settings: EarlyStopping | None,
        texts: Texts,
        rows: Sequence[int],
        labels: Tensor,
        dtype: torch.dtype,
    ) -> None:
        """rows: the 2M dialogues to measure on, the first responses first; labels: (M, K) of their judges."""
        self.learner, self.updates, self.settings = learner, updates, settings
        self.texts, self.rows, self.labels, self.dtype = texts, rows, labels.numpy(), dtype
        units = len(learner.names) if learner.apart else 1
        self.value = [-1.0] * units
        self.weights: list[list[Tensor] | None] = [None] * units
        self.waited = [0] * units  # measurements without a new best
        self.measured = 0  # at this step

    def after(self, step: int) -> bool:
        """Measure if it is time to; True when nothing is left to wait for."""
        if self.settings is None or step % self.settings.every:
            return False
        self._measure(step, self.settings)
        return all(waited >= self.settings.patience for waited in self.waited)

    def restore(self, step: int) -> None:
        """Put the best weights into the learner."""
        if self.settings is None:
            return
        if self.measured < step:
            self._measure(step, self.settings)
        for unit, weights in enumerate(self.weights):
            if weights is not None:
                self.updates.put(unit, weights)

    def state(self) -> State:
        return {key: getattr(self, key) for key in KEPT}

    def load(self, state: State, units: Sequence[int]) -> None:
        """`units`: which of those that `state` holds."""
        for key in ("value", "waited", "weights"):
            setattr(self, key, [state[key][unit] for unit in units])
        self.measured = state["measured"]

    def _measure(self, step: int, settings: EarlyStopping) -> None:
        self.measured = step
        for unit, value in enumerate(self._accuracies()):
            if value is None or self.waited[unit] >= settings.patience:
                continue
            if value > self.value[unit]:
                self.value[unit], self.waited[unit] = value, 0
                self.weights[unit] = self.updates.copy(unit)
            else:
                self.waited[unit] += 1

    def _accuracies(self) -> list[float | None]:
        """Of each unit; None where no verdict decides."""
        first, second = score_texts(self.learner, self.texts, self.rows, self.dtype).double().chunk(2)
        gaps = (first - second).numpy()
        right = [agreement(gaps[:, k], np.nan_to_num(self.labels[:, k], nan=0.5)) for k in range(gaps.shape[1])]
        values = [float(np.nanmean(r)) if (~np.isnan(r)).any() else None for r in right]
        if self.learner.apart:
            return values
        known = [value for value in values if value is not None]
        return [float(np.mean(known)) if known else None]
