"""The training loop: one optimizer for all principles of a learner, in which none moves another.

AdamW works weight by weight, each principle's gradients are clipped by their own norm, and each principle's loss is
the mean over the pairs of the batch that it has a verdict on. So K principles with weights of their own come out the
same, to rounding, whether they are trained together or one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from morlaif import ranks
from morlaif.errors import UserError
from morlaif.pace import Pace
from morlaif.preference.checkpoint import FitCheckpoint, State, generator_state, set_generator_state
from morlaif.preference.kind import OnStep
from morlaif.preference.learners import Learner, Texts, state_size
from morlaif.preference.loss import pair_losses
from morlaif.preference.pairs import epoch_batches
from morlaif.preference.settings import TrainedPM
from morlaif.preference.stopping import EarlyStopper
from morlaif.preference.updates import make_updates


@dataclass(frozen=True)
class TrainingPairs:
    """N pairs and what the K principles of a learner learn from them."""

    texts: Texts  # the 2N dialogues: pair i is rows i and N + i
    labels: Tensor  # (N, K) probability that the first is better, NaN where a principle learns nothing
    batched: Sequence[int]  # pairs that batches are made of
    chosen_by: Sequence[int] = ()  # pairs that early stopping looks at
    weights: Tensor | None = None  # (N, K) of each pair in the loss, above zero; None: 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longer response of each batched pair, its prompt included."""
        tokens = self.texts.lengths
        return [max(tokens[i], tokens[len(self) + i]) for i in self.batched]

    def rows(self, pairs: Sequence[int]) -> list[int]:
        """The dialogues of these pairs, the first responses first."""
        return [*pairs, *(len(self) + i for i in pairs)]


@dataclass(frozen=True)
class Fitted:
    """What became of the K principles of a learner."""

    losses: NDArray[np.float64]  # (steps, K), NaN where a batch held nothing for a principle
    failed: dict[int, UserError]

    def train_loss(self, k: int) -> float:
        """Mean over the last tenth of the steps that taught principle `k` anything."""
        taught = self.losses[~np.isnan(self.losses[:, k]), k]
        return float(taught[-max(1, len(taught) // 10) :].mean())


class PMTrainer:
    """Trains a learner in place. Several ranks share each batch; all make the same update."""

    def __init__(
        self,
        learner: Learner,
        pairs: TrainingPairs,
        settings: TrainedPM,
        generator: torch.Generator,
        dtype: torch.dtype,
        on_step: OnStep = lambda step, steps, losses: None,
        checkpoint: FitCheckpoint | None = None,
    ) -> None:
        """
        Args:
            generator: of the batches' order.
            dtype: of autocast, where it is not float32.
            checkpoint: where the training is saved, and what it goes on from; the result is that of one that was never
                killed.
        """
        self.learner, self.pairs, self.settings, self.generator = learner, pairs, settings, generator
        self.dtype, self.on_step, self.checkpoint = dtype, on_step, checkpoint
        self.device = pairs.texts.device
        self.labels = pairs.labels.clone()  # of a principle that has failed, NaN
        self.weights = torch.ones_like(pairs.labels) if pairs.weights is None else pairs.weights
        self.steps = settings.epochs * -(-len(pairs.batched) // settings.batch_size)
        self.updates = make_updates(learner, settings, self.steps)
        self.stopper = EarlyStopper(
            learner, self.updates, settings.early_stopping,
            pairs.texts, pairs.rows(pairs.chosen_by), pairs.labels[list(pairs.chosen_by)], dtype,
        )  # fmt: skip
        self.losses: list[list[float]] = []  # (steps so far, K)
        self.failed: dict[int, UserError] = {}

    def run(self) -> Fitted:
        """Train from the last checkpoint, or from the start, to the end."""
        every = self.settings.checkpoint_every
        pace, done = Pace(every), self._resume()
        if not self.losses:
            self.learner.size = state_size(self.learner, self.pairs.texts, self._first_rows(), self.dtype)
        self.learner.model.train()
        for batch in () if done else islice(self._batches(), len(self.losses), None):
            self.step(batch)
            if self.stopper.after(len(self.losses)):
                break
            if len(self.losses) < self.steps and pace.due(len(self.losses)):
                self._save()
        if not done:
            self.stopper.restore(len(self.losses))
            if every:
                self._save(done=True)
        self.learner.model.eval()
        return Fitted(np.array(self.losses).reshape(len(self.losses), -1), self.failed)

    def step(self, batch: Sequence[int]) -> None:
        """One step: every principle learns from the pairs of `batch` that it has a verdict on."""
        taught = self.weights[batch].where(~self.labels[batch].isnan(), 0.0).sum(0)  # (K,) pairs, by weight
        loss = torch.zeros(len(self.learner.names), dtype=torch.float64)

        # 1. Cut: this rank's share of the batch, in parts that go through the network at once.
        for part, labels, weights, last in self._cut(batch):
            with self._autocast():
                # 2. Score both responses of each pair under all principles.
                scores = self.learner.score(self.pairs.texts, self.pairs.rows(part))  # (2B, K)

                # 3. Loss: of each principle, this part's share of its mean over the batch.
                whole = taught.clamp(min=1).to(self.device)
                each = (pair_losses(scores, labels, self.settings) * weights).sum(0) / whole  # (K,)

            # 4. Gradients: of the sum where weights are apart, so that none sees another; else of the mean.
            finite = each.detach().isfinite()
            self.updates.backward(each[finite].sum() if self.learner.apart else each.mean(), last=last)
            loss += each.detach().double().cpu()

        # 5. Check: whose loss is no number any more is out.
        loss = ranks.total(loss.to(self.device)).cpu()
        self._check(loss)

        # 6. Update: what the learner wants besides, clip and step.
        self.learner.before_update(len(self.losses))
        self.updates.step()

        # 7. Log.
        self.losses.append(torch.where(taught > 0, loss, torch.nan).tolist())
        logged = zip(self.learner.names, self.losses[-1], strict=True)
        self.on_step(len(self.losses), self.steps, {name: value for name, value in logged if np.isfinite(value)})

    def _first_rows(self) -> list[int]:
        """Dialogues of as many pairs as a batch has, from all over the data: the same whichever principles learn."""
        pairs = self.pairs.batched
        return self.pairs.rows(pairs[:: -(-len(pairs) // self.settings.batch_size)])

    def _batches(self) -> Iterator[list[int]]:
        """The pairs of each step of the whole training."""
        lengths = self.pairs.lengths
        for _ in range(self.settings.epochs):
            for batch in epoch_batches(lengths, self.settings.batch_size, self.generator):
                yield [self.pairs.batched[i] for i in batch]

    def _cut(self, batch: Sequence[int]) -> Iterator[tuple[Sequence[int], Tensor, Tensor, bool]]:
        """This rank's pairs of `batch`, a forward at a time: pairs, their labels and weights (B, K), whether the update
        follows."""
        own, share = ranks.share(batch), -(-len(batch) // ranks.count())
        micro = self.settings.micro_batch_size or self.settings.batch_size
        for start in range(0, share, micro):
            part = own[start : start + micro]
            labels = self.labels[part].to(device=self.device, dtype=torch.float32)
            if ranks.count() == 1 and labels.isnan().all():
                continue
            if not part:  # a forward may be an exchange: this rank makes as many as the others, and learns nothing
                part = batch[:1]
                labels = torch.full_like(self.labels[:1], torch.nan, device=self.device, dtype=torch.float32)
            yield part, labels, self.weights[part].to(labels), start + micro >= share

    def _check(self, loss: Tensor) -> None:
        """Where weights are apart, the others go on without a principle whose loss is no number.

        Raises:
            UserError: nothing is left to learn.
        """
        for k in (~loss.isfinite()).nonzero().flatten().tolist():
            if k not in self.failed:
                name, step = self.learner.names[k], len(self.losses) + 1
                self.failed[k] = UserError(
                    f"pm/{name}: the loss is {loss[k].item()} at step {step}: lower pm.learning_rate"
                )
                self.labels[:, k] = torch.nan
        if self.failed and (not self.learner.apart or len(self.failed) == len(self.learner.names)):
            raise next(iter(self.failed.values()))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    # --- the life of a run ---

    def _save(self, done: bool = False) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(len(self.losses), self.state(done))

    def _resume(self) -> bool:
        """Go on from the last checkpoint, if there is one; whether nothing is left to do."""
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is None:
            return False
        self.load(state)
        return state["done"]

    def state(self, done: bool = False) -> State:
        """All that moves, from every rank, since each draws noise of its own. When `done`, only what came of it.

        The batches follow from the seed and the number of steps so far.
        """
        state: State = {
            "step": len(self.losses), "done": done, "names": list(self.learner.names),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "failed": {self.learner.names[k]: str(error) for k, error in self.failed.items()},
            "size": self.learner.size, "updates": self.updates.state(done),
        }  # fmt: skip
        if not done:
            noise = ranks.gather(generator_state(self.device))
            state |= {"best": self.stopper.state(), "device": self.device.type, "noise": noise}
        return state

    def load(self, state: State) -> None:
        """Put back what `state` gave, for the learner's principles, in the same company or another."""
        names = list(self.learner.names)
        rows = [state["names"].index(name) for name in names]
        same = names == state["names"]
        self.learner.size = state["size"]

        def pick(tensor: Tensor) -> Tensor:
            several = len(state["names"]) // max(1, len(tensor))  # principles' scores that a row is for
            return tensor if same else tensor[[row // several for row in rows[::several]]]

        self.updates.load(state["updates"], state["done"], pick)
        self.losses[:] = state["losses"][:, rows].tolist()
        self.failed |= {k: UserError(state["failed"][n]) for k, n in enumerate(names) if n in state["failed"]}
        self.labels[:, list(self.failed)] = torch.nan
        if state["done"]:
            return
        self.stopper.load(state["best"], rows if self.learner.apart else [0])
        if state["device"] == self.device.type and len(state["noise"]) == ranks.count():
            set_generator_state(self.device, state["noise"][ranks.rank()])
        else:  # other ranks draw anew
            torch.manual_seed(torch.initial_seed() + 7919 * state["step"])
