"""The training loop: one optimizer for all principles of a learner, in which none moves another.

AdamW works weight by weight, each principle's gradients are clipped by their own norm, and each principle's loss is
the mean over the pairs of the batch that it has a verdict on. So K principles with weights of their own come out the
same, to rounding, whether they are trained together or one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from morlaif import ranks
from morlaif.errors import UserError
from morlaif.preference.checkpoint import Slot, Standing
from morlaif.preference.learners import Learner, Texts
from morlaif.preference.lora import forward_tokens
from morlaif.preference.loss import centring, margin_bradley_terry, soft_bradley_terry
from morlaif.preference.metrics import agreement
from morlaif.preference.pairs import epoch_batches
from morlaif.preference.scoring import length_buckets
from morlaif.preference.settings import EarlyStopping, TrainedPM
from morlaif.preference.updates import Updates, make_updates

OnStep = Callable[[int, int, dict[str, float]], None]  # step, steps, loss of each principle


@dataclass
class Fitted:
    """What became of the K principles of a learner."""

    losses: NDArray[np.float64]  # (steps, K), NaN where a batch held nothing for a principle
    failed: dict[int, UserError] = field(default_factory=dict)

    def train_loss(self, k: int) -> float:
        """Mean over the last tenth of the steps that taught principle `k` anything."""
        taught = self.losses[~np.isnan(self.losses[:, k]), k]
        return float(taught[-max(1, len(taught) // 10) :].mean())


def fit(
    learner: Learner,
    texts: Texts,
    labels: Tensor,
    pairs: Sequence[int],
    chosen_by: Sequence[int],
    settings: TrainedPM,
    generator: torch.Generator,
    dtype: torch.dtype,
    on_step: OnStep = lambda step, steps, losses: None,
    slot: Slot | None = None,
) -> Fitted:
    """Train `learner` in place. Several ranks share each batch; all make the same update.

    texts: the 2N dialogues, pair i as rows i and N + i. labels: (N, K) probability that the first is better, NaN where
    a principle learns nothing. pairs: those that batches are made of. chosen_by: those that early stopping looks at.
    slot: where the training is saved, and what it goes on from; the result is that of one that was never killed.
    """
    count, device = len(labels), texts.device
    lengths = [max(texts.lengths[i], texts.lengths[count + i]) for i in pairs]
    total = settings.epochs * -(-len(pairs) // settings.batch_size)
    updates = make_updates(learner, settings, total)
    micro = settings.micro_batch_size or settings.batch_size
    best = _Best(learner, updates, settings.early_stopping, texts, labels, chosen_by, dtype)
    labels = labels.clone()
    losses: list[list[float]] = []
    fitted = Fitted(np.empty((0, len(learner.names))))
    standing = Standing(learner, updates, best, losses, fitted.failed, device)
    done = slot is not None and standing.resume(slot)
    labels[:, list(fitted.failed)] = torch.nan
    every = settings.checkpoint_every if slot is not None else None
    learner.model.train()
    for batch in () if done else islice(_batches(lengths, settings, generator), len(losses), None):
        here = [pairs[i] for i in batch]
        counted = (~labels[here].isnan()).sum(0)  # (K,)
        loss = torch.zeros(len(learner.names), dtype=torch.float64)
        own = ranks.share(here)
        share = -(-len(here) // ranks.count())
        for start in range(0, share, micro):
            part = own[start : start + micro]
            given = labels[part].to(device=device, dtype=torch.float32)
            if ranks.count() == 1 and given.isnan().all():
                continue
            if not part:  # a forward may be an exchange: this rank makes as many as the others, and learns nothing
                part, given = here[:1], torch.full_like(labels[:1], torch.nan, device=device, dtype=torch.float32)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                scores = learner.score(texts, [*part, *(count + i for i in part)])
                each = pair_losses(scores, given, settings).sum(0) / counted.clamp(min=1).to(device)  # (K,)
            finite = each.detach().isfinite()
            summed = each[finite].sum() if learner.apart else each.mean()
            updates.backward(summed, last=start + micro >= share)
            loss += each.detach().double().cpu()
        loss = ranks.total(loss.to(device)).cpu()
        _check(learner, fitted, loss, labels, len(losses) + 1)
        updates.step()
        shown = torch.where(counted > 0, loss, torch.nan).tolist()
        losses.append(shown)
        on_step(len(losses), total, {name: x for name, x in zip(learner.names, shown, strict=True) if np.isfinite(x)})
        if best.after(len(losses)):
            break
        if every and len(losses) % every == 0 and len(losses) < total:
            slot.save(len(losses), standing.state())
    if not done:
        best.restore(len(losses))
        if every:
            slot.save(len(losses), standing.state(done=True))
    learner.model.eval()
    fitted.losses = np.array(losses).reshape(len(losses), -1)
    return fitted


def pair_losses(scores: Tensor, probability: Tensor, settings: TrainedPM) -> Tensor:
    """(B, K) losses of B pairs, 0 where `probability` (B, K) is NaN. scores: (2B, K), the first responses first.

    Which response stands first needs no balancing: every loss here is symmetric under swapping both.
    """
    valid = ~probability.isnan()
    p = probability.where(valid, 0.5)
    first, second = scores.chunk(2)
    if settings.loss == "soft":
        loss = soft_bradley_terry(first, second, p)
    else:
        loss = margin_bradley_terry(first, second, p, settings.margin_scale)
    if settings.center:
        loss = loss + settings.center * centring(first, second)
    return loss * valid


@torch.no_grad()
def score_texts(
    learner: Learner, texts: Texts, which: Sequence[int], dtype: torch.dtype, tokens: int | None = None
) -> Tensor:
    """(len(which), K) float32 on the CPU, by buckets of like length; each rank scores its share of them."""
    device = texts.device
    tokens = tokens or forward_tokens(learner.model)
    training = learner.model.training
    learner.model.eval()
    scores = torch.zeros(len(which), len(learner.names))
    buckets = list(length_buckets([texts.lengths[i] for i in which], tokens))
    own = ranks.share(buckets)
    for turn in range(-(-len(buckets) // ranks.count())):
        bucket = own[turn] if turn < len(own) else buckets[0]  # the same number of forwards on each rank
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = learner.score(texts, [which[i] for i in bucket]).cpu()
        if turn < len(own):
            scores[bucket] = found
    learner.model.train(training)
    return ranks.total(scores.to(device)).cpu()


def _batches(lengths: Sequence[int], settings: TrainedPM, generator: torch.Generator) -> Iterable[list[int]]:
    for _ in range(settings.epochs):
        yield from epoch_batches(lengths, settings.batch_size, generator)


def _check(learner: Learner, fitted: Fitted, loss: Tensor, labels: Tensor, step: int) -> None:
    """A principle whose loss is no number any more is out; where weights are apart, the others go on without it."""
    for k in (~loss.isfinite()).nonzero().flatten().tolist():
        if k not in fitted.failed:
            fitted.failed[k] = UserError(
                f"pm/{learner.names[k]}: the loss is {loss[k].item()} at step {step}: lower pm.learning_rate"
            )
            labels[:, k] = torch.nan
    if fitted.failed and (not learner.apart or len(fitted.failed) == len(learner.names)):
        raise next(iter(fitted.failed.values()))


class _Best:
    """The best weights so far, for each principle, by accuracy on pairs that it does not learn from."""

    def __init__(
        self,
        learner: Learner,
        updates: Updates,
        settings: EarlyStopping | None,
        texts: Texts,
        labels: Tensor,
        pairs: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        self.learner, self.updates, self.settings = learner, updates, settings
        self.texts, self.dtype = texts, dtype
        self.labels, self.pairs, self.count = labels[list(pairs)].numpy(), list(pairs), len(labels)
        self.units = len(learner.names) if learner.apart else 1  # what stops on its own
        self.value = [-1.0] * self.units
        self.weights: list[list[Tensor] | None] = [None] * self.units
        self.waited = [0] * self.units
        self.measured = 0

    def state(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("value", "waited", "weights", "measured")}

    def load(self, state: dict[str, Any], units: Sequence[int]) -> None:
        """`units`: which of those that `state` holds."""
        for key in ("value", "waited", "weights"):
            setattr(self, key, [state[key][unit] for unit in units])
        self.measured = state["measured"]

    def after(self, step: int) -> bool:
        """Measure if it is time to; True when nothing is left to wait for."""
        if self.settings is None or step % self.settings.every:
            return False
        self._measure(step)
        return all(waited >= self.settings.patience for waited in self.waited)

    def restore(self, step: int) -> None:
        if self.settings is None:
            return
        if self.measured < step:
            self._measure(step)
        for unit, weights in enumerate(self.weights):
            if weights is not None:
                self.updates.put(unit, weights)

    def _measure(self, step: int) -> None:
        self.measured = step
        rows = [*self.pairs, *(self.count + i for i in self.pairs)]
        first, second = score_texts(self.learner, self.texts, rows, self.dtype).double().chunk(2)
        gaps = (first - second).numpy()
        right = [agreement(gaps[:, k], np.nan_to_num(self.labels[:, k], nan=0.5)) for k in range(gaps.shape[1])]
        values = [float(np.nanmean(r)) if (~np.isnan(r)).any() else None for r in right]
        if not self.learner.apart:
            known = [value for value in values if value is not None]
            values = [float(np.mean(known)) if known else None]
        for unit, value in enumerate(values):
            if value is None or self.waited[unit] >= self.settings.patience:
                continue
            if value > self.value[unit]:
                self.value[unit], self.waited[unit] = value, 0
                self.weights[unit] = self.updates.copy(unit)
            else:
                self.waited[unit] += 1
