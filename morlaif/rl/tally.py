"""What the updates of a step showed: of each update, of each epoch, and of the whole step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from morlaif import ranks
from morlaif.rl.diagnostics import explained_variance

MEANS = {"ratio": "ratio_mean"}  # what the mean of a sum over tokens is called, where not as the sum
VALUES = ("return", "return_squares", "error", "error_squares", "value_clipped")  # sums over states


@dataclass
class Update:
    """One update: sums over the tokens and states of this rank, and their numbers on all ranks.

    They stay tensors until the step is over: a number read at each micro-batch would make a GPU wait for the CPU.
    """

    epoch: int
    tokens: int
    states: int
    sums: dict[str, Tensor] = field(default_factory=dict)
    ratios: list[Tensor] = field(default_factory=list)  # (2,) the least and the largest ratio of each micro-batch
    norms: Mapping[str, Tensor | float] = field(default_factory=dict)

    def add(self, **sums: Tensor) -> None:
        for name, value in sums.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def mean(self, name: str) -> float:
        """Over the tokens of all ranks, which all must ask; 0 where none has added anything."""
        own = {name: self.sums[name].item()} if name in self.sums else {}
        return ranks.added(own).get(name, 0.0) / self.tokens


@dataclass(frozen=True)
class Seen:
    """An update, an epoch or a step, once all ranks have reported what they saw."""

    tokens: int
    states: int
    updates: int
    sums: Mapping[str, float]
    norms: Mapping[str, float]  # summed over updates
    ratios: tuple[float, float] | None

    @classmethod
    def together(cls, parts: Sequence[Seen]) -> Seen:
        ratios = [part.ratios for part in parts if part.ratios is not None]
        return cls(
            sum(part.tokens for part in parts),
            sum(part.states for part in parts),
            sum(part.updates for part in parts),
            _added([part.sums for part in parts]),
            _added([part.norms for part in parts]),
            (min(low for low, _ in ratios), max(high for _, high in ratios)) if ratios else None,
        )

    def row(self) -> dict[str, float]:
        """Means over tokens, states or updates, the extremes of the ratio, and the critic's explained variance."""
        found = {
            MEANS.get(name, name): value / max(1, self.tokens)
            for name, value in self.sums.items()
            if name not in VALUES
        }
        found |= {name: value / self.updates for name, value in self.norms.items()}
        if self.ratios is not None:
            found |= {"ratio_min": self.ratios[0], "ratio_max": self.ratios[1]}
        if "return" in self.sums:
            found["explained_variance"] = explained_variance(self.sums, self.states)
        if "value_clipped" in self.sums:
            found["value_clip_fraction"] = self.sums["value_clipped"] / self.states
        return found


class Tally:
    """The updates of one step, in their order."""

    def __init__(self) -> None:
        self.updates: list[Update] = []

    def begin(self, epoch: int, tokens: int, states: int) -> Update:
        """The update that is to come; `tokens` and `states` of all ranks."""
        self.updates.append(Update(epoch, tokens, states))
        return self.updates[-1]

    def seen(self) -> list[tuple[int, Seen]]:
        """Epoch and sight of each update, the same on all ranks."""
        own = [(_numbers(update.sums), _extremes(update.ratios), _numbers(update.norms)) for update in self.updates]
        of_ranks = ranks.gather(own)
        found = []
        for place, update in enumerate(self.updates):
            sums, ratios, _ = zip(*(rows[place] for rows in of_ranks), strict=True)
            known = [pair for pair in ratios if pair is not None]
            extremes = (min(low for low, _ in known), max(high for _, high in known)) if known else None
            norms = own[place][2]  # alike on all ranks
            found.append((update.epoch, Seen(update.tokens, update.states, 1, _added(sums), norms, extremes)))
        return found


@dataclass(frozen=True)
class UpdateTally:
    """For the log: the step as a whole, and lists with a number for each update and each epoch."""

    step: dict[str, float]
    lists: dict[str, list[float]]

    @classmethod
    def of(cls, seen: Sequence[tuple[int, Seen]]) -> UpdateTally:
        step = Seen.together([one for _, one in seen]).row()
        for name in ("entropy", "explained_variance"):  # the log has those from before the updates
            step.pop(name, None)
        first = seen[0][1].ratios if seen else None
        if first is not None:  # before the first update every ratio is 1, or something is wrong
            step["first_ratio_error"] = max(abs(ratio - 1) for ratio in first)
        epochs = [
            Seen.together([one for epoch, one in seen if epoch == at]) for at in sorted({epoch for epoch, _ in seen})
        ]
        lists = _lists("updates", [one.row() for _, one in seen]) | _lists("epochs", [one.row() for one in epochs])
        return cls(step, lists)


def _lists(kind: str, rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {f"{kind}/{name}": [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _added(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    whole: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            whole[name] = whole.get(name, 0.0) + value
    return whole


def _numbers(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Read in one go, where they lie on a GPU."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    read = torch.stack([value.double() for value in tensors.values()]).tolist() if tensors else []
    known = dict(zip(tensors, read, strict=True))
    return {name: known.get(name, value) for name, value in values.items()}


def _extremes(ratios: Sequence[Tensor]) -> tuple[float, float] | None:
    if not ratios:
        return None
    low, high = torch.stack(list(ratios)).double().unbind(1)
    return low.min().item(), high.max().item()
