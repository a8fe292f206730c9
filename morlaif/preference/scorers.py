"""Some of a bank's models that share a network, and the K scores that it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from morlaif import ranks, sharded
from morlaif.models.adapters import Adapter, adapter_hash
from morlaif.models.layers import layer_list
from morlaif.preference.lora import stack_adapters
from morlaif.preference.model import PaddedBatch, Pooling, pooled_states, score_batch, trunk_states
from morlaif.preference.questions import question_states
from morlaif.preference.split import SplitTrunk


class Scorer(Protocol):
    names: tuple[str, ...]

    def score(self, batch: PaddedBatch) -> Tensor:
        """(B, len(names)) float32."""
        ...

    def deviation(self, batch: PaddedBatch) -> Tensor | None:
        """(B, len(names)) float32 between the members of each score; None where a score has no members."""
        ...

    def modules(self) -> Iterable[nn.Module]:
        """The networks, for moving and for counting memory."""
        ...


class AdapterScorer:
    """Adapters on one base: as many as fit the token budget go through it in one forward.

    What models share is computed once: layers below the lowest adapted one for all of them, and the whole trunk for
    models that have the same adapter and differ in their head.
    """

    def __init__(
        self,
        names: Sequence[str],
        model: PreTrainedModel,
        adapters: Sequence[Callable[[], Adapter]],
        pooling: Pooling,
        tokens: int,
        questions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`adapters`: what reads each; they are read one after another, and never held beside the stack.

        `questions`: what each model reads behind the dialogue (kind conditioned).
        """
        self.names = tuple(names)
        self.model, self.pooling, self.tokens, self.questions = model, pooling, tokens, questions
        device = next(model.parameters()).device
        trunks: dict[str, int] = {}
        self.trunk: list[int] = []  # of each model
        widths: dict[str, int] = {}
        heads = []
        for read in adapters:
            adapter = read()
            self.trunk.append(trunks.setdefault(adapter_hash(adapter), len(trunks)))
            heads.append(adapter.head)
            for name, (down, _) in adapter.layers.items():
                widths[name] = max(widths.get(name, 0), down.shape[0])
        self.heads = torch.cat(heads).float().to(device)  # (K, H)
        self.count = len(trunks)
        first = _lowest(model, widths)
        different = (adapters[self.trunk.index(g)]().layers for g in range(self.count))
        self.stack = stack_adapters(model, widths, self.count, different)
        sharded.split(model)  # the adapters too lie in parts where their base does
        self.split = SplitTrunk(model, first) if first > 0 and questions is None else None
        self.sharded = any(map(sharded.is_sharded, model.parameters()))

    def score(self, batch: PaddedBatch) -> Tensor:
        size = batch.ids.numel()
        if self.sharded:  # every rank makes as many forwards
            size = max(ranks.gather(size))
        together = max(1, min(self.count, self.tokens // size))
        below = None if self.split is None else self.split.lower(batch.ids)
        scores = torch.empty(len(batch.ids), len(self.trunk), device=batch.ids.device)
        for start in range(0, self.count, together):
            active = slice(start, min(start + together, self.count))
            self.stack.activate(active)
            self._score(batch, active, below, scores)
        return scores

    def _score(self, batch: PaddedBatch, active: slice, below: Tensor | None, scores: Tensor) -> None:
        """Fill in the columns of the models on the trunks `active`."""
        columns = [k for k, trunk in enumerate(self.trunk) if active.start <= trunk < active.stop]
        within = [self.trunk[k] - active.start for k in columns]
        group = active.stop - active.start
        if self.questions is not None:  # (B, K, H), a trunk at a time
            asked = [self.questions[k] for k in columns]
            states = question_states(self.model, batch, asked).float()
            scores[:, columns] = torch.einsum("bkh,kh->bk", states, self.heads[columns])
            return

        def run() -> Tensor:
            if below is None:
                return trunk_states(self.model, batch.ids.repeat(group, 1))
            assert self.split is not None
            return self.split.upper(below.repeat(group, 1, 1))

        pooled = pooled_states(self.model, batch, self.pooling, run).float().view(group, len(batch.ids), -1)
        scores[:, columns] = torch.einsum("kbh,kh->bk", pooled[within], self.heads[columns])

    def deviation(self, batch: PaddedBatch) -> Tensor | None:
        return None

    def modules(self) -> Iterable[nn.Module]:
        return [self.model]


class EnsembleScorer:
    """M members for each of its models, made one score of."""

    def __init__(
        self, names: Sequence[str], members: AdapterScorer, offsets: Tensor, rule: str, penalty: float
    ) -> None:
        """members: of K·M models, those of each model side by side; offsets (K, M)."""
        self.names, self.members, self.rule, self.penalty = tuple(names), members, rule, penalty
        self.offsets = offsets.to(members.heads.device)

    def score(self, batch: PaddedBatch) -> Tensor:
        return aggregate(self._members(batch), self.rule, self.penalty)

    def deviation(self, batch: PaddedBatch) -> Tensor | None:
        return self._members(batch).std(-1, correction=0)

    def modules(self) -> Iterable[nn.Module]:
        return self.members.modules()

    def _members(self, batch: PaddedBatch) -> Tensor:
        """(B, K, M), centred."""
        return self.members.score(batch).view(len(batch.ids), *self.offsets.shape) - self.offsets


class FullScorer:
    """One whole model."""

    def __init__(self, name: str, model: nn.Module, pooling: Pooling) -> None:
        self.names: tuple[str, ...] = (name,)
        self.model, self.pooling = model, pooling

    def score(self, batch: PaddedBatch) -> Tensor:
        return score_batch(self.model, batch, self.pooling).unsqueeze(1)

    def deviation(self, batch: PaddedBatch) -> Tensor | None:
        return None

    def modules(self) -> Iterable[nn.Module]:
        return [self.model]


def aggregate(members: Tensor, rule: str, penalty: float) -> Tensor:
    """(..., M) centred scores of an ensemble's members -> (...): mean, worst case, or mean less `penalty` times their
    variance (Coste et al., 2310.02743) or their deviation (lower confidence bound, Zhang et al., 2401.16635).
    """
    if rule == "min":
        return members.amin(-1)
    mean = members.mean(-1)
    if rule == "mean":
        return mean
    apart = members.std(-1, correction=0) if rule == "lcb" else members.var(-1, correction=0)
    return mean - penalty * apart


def _lowest(model: PreTrainedModel, names: Iterable[str]) -> int:
    """The lowest layer that has an adapted part; 0 where anything outside the layers is adapted."""
    pattern = layer_list(model)[0] + "."
    if not all(name.startswith(pattern) for name in names):
        return 0
    return min(int(name.removeprefix(pattern).split(".")[0]) for name in names)
