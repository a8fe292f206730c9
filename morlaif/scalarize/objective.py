"""The objective that a policy is trained on: raw scores of K preference models in, one number out.

Order: raw → centre and scale → direction → weight → scalarize. What centres and scales is the normaliser:

- none: nothing. The file of the weights then holds mean 0 and scale 1.
- frozen: mean and deviation on responses of the SFT policy.
- running: mean and deviation of all scores seen so far, the SFT responses among them: the frozen statistics count as
  the responses that they were taken from, so the first step is no noisier than the rest.
- group: within the group of answers to one prompt. Only a trainer knows the groups: it normalises, then calls
  `combine`. Everything else (`__call__`, `normalize`, a single pair in an evaluation) uses the frozen statistics.

The running normaliser and stateful scalarizers learn from what is scored. A trainer calls `observe` once a step, with
the raw scores of the whole step (of all ranks) and before it asks for their rewards, as running normalisation is
usually done: the first step is then normalised by itself too, and an objective depends on its batches alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from morlaif.errors import UserError, suggest
from morlaif.scalarize import running
from morlaif.scalarize.registry import Scalarizer, State
from morlaif.scalarize.settings import Normalizer

VECTORS = ("mean", "scale", "direction", "weight")  # fields of one number a principle


@dataclass(eq=False)
class Objective:
    """Normalised, weighted and scalarized scores. All is fixed but the state, which `observe` alone moves.

    Principles of weight zero leave before the scalarizer: under a minimum or a product a constant zero would speak
    for them.
    """

    names: tuple[str, ...]  # the K principles, in the order of the columns
    mean: Tensor  # (K,) of the raw scores on reference responses
    scale: Tensor  # (K,) deviation there, > 0
    direction: Tensor  # (K,) +1 or -1: whether more is better
    weight: Tensor  # (K,) >= 0; of `at`, (B, K)
    scalarizer: Callable[..., Tensor]  # (B, K') -> (B,)
    normalizer: Normalizer = "frozen"
    responses: int = 0  # how many responses mean and scale were taken from
    models: tuple[str, ...] = ()  # where each score comes from, where that has another name; (): from `names`
    sft_scores: Tensor | None = None  # (N, K) raw scores of the SFT policy's responses, where the scalarizer reads them
    state: State = field(init=False)  # of the normaliser and of the scalarizer; see `observe`

    def __post_init__(self) -> None:
        for key in VECTORS:
            value = torch.as_tensor(getattr(self, key), dtype=torch.float32)
            if value.shape != (len(self.names),) or not value.isfinite().all():
                raise UserError(f"objective: `{key}` must hold {len(self.names)} finite numbers, one a principle")
            setattr(self, key, value)
        if len(set(self.names)) != len(self.names):
            raise UserError(f"objective: a principle is given twice in {', '.join(self.names)}")
        if not (self.scale > 0).all():
            raise UserError(f"objective: scale of '{self.names[int(self.scale.argmin())]}' is not above zero")
        if not (self.direction.abs() == 1).all():
            raise UserError("objective: `direction` holds +1 or -1 only")
        if (self.weight < 0).any():
            name = self.names[int(self.weight.argmin())]
            raise UserError(f"objective: weight of '{name}' is negative; give it direction -1 and a positive weight")
        if not (self.weight > 0).any():
            raise UserError("objective: every weight is zero; at least one principle must count")
        if self.sft_scores is not None:
            self.sft_scores = torch.as_tensor(self.sft_scores, dtype=torch.float32)
            if self.sft_scores.ndim != 2 or self.sft_scores.shape[1] != len(self.names) or not len(self.sft_scores):
                raise UserError(f"objective: `sft_scores` must be of shape (responses, {len(self.names)})")
        elif isinstance(self.scalarizer, Scalarizer) and self.scalarizer.reads_sft_scores:
            raise UserError(
                f"scalarizer '{self.scalarizer.name}' reads the scores of the SFT policy's responses, and the weights "
                "were made without them: build `weigh` again, or use another scalarizer"
            )
        self.state = {"normalizer": {}, "scalarizer": {}}
        if self.normalizer == "running":
            self.state["normalizer"] = running.start(self.names, self.mean, self.scale, self.responses)
        if isinstance(self.scalarizer, Scalarizer):
            self.scalarizer.check(self.active)
            self.state["scalarizer"] = self.scalarizer.start(self.active)

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], names: Sequence[str]) -> Objective:
        """A bare function of the raw scores: nothing is normalised, every principle weighs 1."""
        zero, one = torch.zeros(len(names)), torch.ones(len(names))
        return cls(tuple(names), zero, one, one, one, function, normalizer="none")

    def at(self, weights: Tensor) -> Objective:
        """The same objective for B responses, each with weights of its own (B, K), zero ones left out row by row.

        It shares its state with this one, which only knows the principles that it has a weight for itself.

        Raises:
            UserError: a weight is no number from 0 on, a row has none above it, or a principle has none here.
        """
        weights = weights.detach().float()
        if weights.ndim != 2 or weights.shape[1] != len(self.names) or not weights.isfinite().all():
            raise UserError(
                f"objective: expected finite weights (batch, {len(self.names)}), got {tuple(weights.shape)}"
            )
        if (weights < 0).any() or not (weights > 0).any(1).all():
            raise UserError("objective: each row needs weights from 0 on, and one above it")
        for name, own, told in zip(self.names, self.counts.tolist(), (weights > 0).any(0).tolist(), strict=True):
            if told and not own:
                raise UserError(
                    f"objective: '{name}' has weight zero in all, so no response can give it one of its own"
                )
        made = copy.copy(self)
        made.weight = weights
        return made

    @property
    def counts(self) -> Tensor:
        """(K,) bool: which principles reach the scalarizer, in some row at least."""
        return (self.weight > 0).reshape(-1, len(self.names)).any(0)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns are called among the scores of several objectives."""
        return self.models or self.names

    @property
    def active(self) -> tuple[str, ...]:
        """The principles that reach the scalarizer."""
        return tuple(name for name, counts in zip(self.names, self.counts.tolist(), strict=True) if counts)

    @property
    def stateful(self) -> bool:
        """Whether `observe` changes anything."""
        return self.normalizer == "running" or self._learns

    def standardize(self, scores: Tensor) -> Tensor:
        """(B, K) raw -> (B, K) centred and scaled by the frozen statistics: a yardstick that never moves, for logs."""
        self._check(scores)
        return (scores - self.mean.to(scores)) / self.scale.to(scores)

    def normalize(self, scores: Tensor) -> Tensor:
        """(B, K) raw -> (B, K) centred and scaled by the normaliser; direction and weight not yet applied."""
        if self.normalizer != "running":
            return self.standardize(scores)
        self._check(scores)
        mean, scale = running.statistics(self.state["normalizer"], self.names, self.mean, self.scale)
        return (scores - mean.to(scores)) / scale.to(scores)

    def weigh(self, normalized: Tensor) -> Tensor:
        """(B, K) normalised -> (B, K') with direction and weight applied, principles of weight zero left out."""
        if self.weight.ndim == 2 and len(self.weight) != len(normalized):
            raise UserError(f"objective: weights of {len(self.weight)} responses were given {len(normalized)}")
        return (normalized * (self.direction * self.weight).to(normalized))[:, self.counts.to(normalized.device)]

    def combine(self, normalized: Tensor) -> Tensor:
        """(B, K) normalised, in whatever way -> (B,)."""
        weighted = self.weigh(normalized)
        if self.weight.ndim == 1:
            return self._scalarize(weighted, self.active, self._weights(weighted))
        weights, value = self._weights(weighted), weighted.new_zeros(len(weighted))
        patterns, of = (weights > 0).unique(dim=0, return_inverse=True)
        for place, pattern in enumerate(patterns):  # rows with the same principles, which keep their names
            rows, columns = (of == place).nonzero()[:, 0], pattern.nonzero()[:, 0]
            names = tuple(self.active[k] for k in columns.tolist())
            if isinstance(self.scalarizer, Scalarizer):
                self.scalarizer.check(names)
            own = self._scalarize(weighted[rows][:, columns], names, weights[rows][:, columns])
            value = value.index_put((rows,), own)
        return value

    def _scalarize(self, weighted: Tensor, names: tuple[str, ...], weights: Tensor) -> Tensor:
        """(B, K') weighted scores of `names`, with weights (K',) or (B, K') -> (B,)."""
        if isinstance(self.scalarizer, Scalarizer):
            state, sft = self.state["scalarizer"], self._sft_scores(weighted)
            value = self.scalarizer(weighted, names, weights, state, sft)
        else:
            value = self.scalarizer(weighted)
        if value.shape != (len(weighted),):
            name = getattr(self.scalarizer, "name", getattr(self.scalarizer, "__name__", "?"))
            raise UserError(
                f"scalarizer '{name}' gave a value of shape {tuple(value.shape)} for {len(weighted)} responses; it "
                f"must reduce over principles alone, (batch, {weighted.shape[-1]}) to (batch,)"
            )
        return value

    def __call__(self, scores: Tensor) -> Tensor:
        """(B, K) raw scores -> (B,). Moves no state: the same scores have the same value until `observe`."""
        return self.combine(self.normalize(scores))

    @torch.no_grad()
    def observe(self, scores: Tensor) -> None:
        """Learn from one step's raw scores (B, K), of all ranks: first the normaliser, then the scalarizer.

        A function of the state and of these scores alone, so ranks that give the same scores stay alike.
        """
        self._check(scores)
        if not self.stateful:
            return
        if not scores.isfinite().all():
            raise UserError("objective: a score that is not finite would spoil the state for good")
        if self.normalizer == "running":
            self.state["normalizer"] = running.update(self.state["normalizer"], self.names, scores)
        if self._learns and isinstance(self.scalarizer, Scalarizer):
            weighted = self.weigh(self.normalize(scores))
            self.state["scalarizer"] = self.scalarizer.update(
                weighted, self.active, self._weights(weighted), self.state["scalarizer"], self._sft_scores(weighted)
            )

    def state_dict(self) -> State:
        """What `observe` has learnt, as JSON. Principles are given by name, so their order does not matter."""
        return copy.deepcopy(self.state)

    def load_state_dict(self, state: State) -> None:
        """Take on what another objective of the same principles, normaliser and scalarizer has learnt."""
        stored, own = _keys(state), _keys(self.state)
        new = {key for key in stored - own if not (self._learns and key.startswith("scalarizer."))}
        if new or own - stored:
            raise UserError(
                f"objective: the stored state has {', '.join(sorted(stored)) or 'nothing'}; normalizer "
                f"'{self.normalizer}' and this scalarizer keep {', '.join(sorted(own)) or 'nothing'}"
            )
        self.state = copy.deepcopy(state)

    def learnt(self) -> dict[str, float]:
        """The scalarizer's state as flat numbers for a log, such as `lambda/toxicity`."""
        return dict(_numbers(self.state["scalarizer"]))

    def select(self, names: Sequence[str]) -> Objective:
        """The same objective, before it has learnt anything, for columns in the order of `names`.

        A missing principle is an error that names it.
        """
        for name in names:
            if name not in self.names:
                has = ", ".join(self.names)
                raise UserError(f"the objective has no principle '{name}' (it has: {has}).{suggest(name, self.names)}")
        index = torch.tensor([self.names.index(name) for name in names], dtype=torch.long)
        models = tuple(self.models[k] for k in index.tolist()) if self.models else ()
        fields = {key: getattr(self, key)[index] for key in VECTORS}
        reference = None if self.sft_scores is None else self.sft_scores[:, index]
        return replace(self, names=tuple(names), models=models, sft_scores=reference, **fields)

    def save(self, path: Path, **details: Any) -> None:
        """Write names, statistics, normaliser and weights as JSON, with `details` beside them.

        Neither the scalarizer nor the state is part of it.
        """
        known: dict[str, Any] = {"normalizer": self.normalizer, "responses": self.responses}
        if self.sft_scores is not None:
            known["sft_scores"] = self.sft_scores.tolist()
        fields = {key: getattr(self, key).tolist() for key in VECTORS}
        path.write_text(json.dumps({"names": list(self.names), **fields, **known, **details}, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, scalarizer: Callable[..., Tensor], names: Sequence[str] | None = None) -> Objective:
        """Read what `save` wrote; with `names`, in their order."""
        stored = json.loads(path.read_text())
        fields: dict[str, Any] = {key: torch.tensor(stored[key]) for key in VECTORS}
        objective = cls(
            names=tuple(stored["names"]), scalarizer=scalarizer, normalizer=stored["normalizer"],
            responses=stored["responses"], sft_scores=stored.get("sft_scores"), **fields,
        )  # fmt: skip
        return objective if names is None else objective.select(names)

    @property
    def _learns(self) -> bool:
        """Whether the scalarizer does; its state may grow, as a table of what was seen."""
        return isinstance(self.scalarizer, Scalarizer) and self.scalarizer.stateful

    def _weights(self, like: Tensor) -> Tensor:
        return self.weight[..., self.counts].to(like)

    def _sft_scores(self, like: Tensor) -> Tensor | None:
        """(N, K') SFT's scores as the scalarizer would get them now."""
        if self.sft_scores is None:
            return None
        if self.weight.ndim == 2:
            raise UserError(
                "objective: a scalarizer that compares with SFT's scores wants the same weights in each row"
            )
        return self.weigh(self.normalize(self.sft_scores.to(like)))

    def _check(self, scores: Tensor) -> None:
        if scores.ndim != 2 or scores.shape[-1] != len(self.names):
            raise UserError(
                f"objective: expected scores (batch, {len(self.names)}) for {', '.join(self.names)}, "
                f"got {tuple(scores.shape)}"
            )


def _keys(state: State, prefix: str = "") -> set[str]:
    """Every dotted key that holds something other than a dictionary."""
    found = set()
    for name, value in state.items():
        found |= _keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return found


def _numbers(state: State, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in state.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
