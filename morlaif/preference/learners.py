"""What learns: networks that give K principles' scores of dialogues, with gradients, and keep their weights apart.

`StackedLearner` has an adapter and a head for each principle; `SharedLearner` one adapter for all of them;
`FullLearner` is a whole model for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from morlaif import ranks, sharded
from morlaif.models.adapters import Adapter
from morlaif.models.layers import layer_list
from morlaif.models.settings import LoRASettings
from morlaif.preference.lora import forward_tokens, fresh, targets
from morlaif.preference.model import (
    Dialogue,
    PaddedBatch,
    Pooling,
    draw_head,
    head,
    pad_batch,
    pooled_states,
    score_batch,
    trunk_states,
)
from morlaif.preference.questions import question_states, row_question_states
from morlaif.preference.scoring import length_buckets
from morlaif.preference.split import SplitTrunk, lower_states


class Texts:
    """Tokenized dialogues on their way into a network; below a split trunk they may be read once and for all."""

    def __init__(self, rows: Sequence[Dialogue], pad: int, device: torch.device) -> None:
        self.rows, self.pad, self.device = rows, pad, device
        self.lengths = [len(row.ids) for row in rows]
        self.states: list[Tensor] | None = None  # (T, H) each, as layer `first` of the split trunk reads them

    def batch(self, which: Sequence[int]) -> PaddedBatch:
        return pad_batch([self.rows[i] for i in which], self.pad, self.device)

    def lower(self, split: SplitTrunk, which: Sequence[int], batch: PaddedBatch) -> Tensor:
        """(B, T, H) below the adapted layers."""
        if self.states is None:
            return lower_states(split, batch.ids)
        return nn.utils.rnn.pad_sequence([self.states[i] for i in which], batch_first=True)

    def keep_lower(self, split: SplitTrunk, tokens: int) -> None:
        """Run the lower layers over all rows now, and keep their states."""
        states: list[Tensor] = [torch.empty(0)] * len(self.rows)
        for bucket in length_buckets(self.lengths, tokens):
            for i, row in zip(bucket, lower_states(split, self.batch(bucket).ids), strict=True):
                states[i] = row[: self.lengths[i]].clone()
        self.states = states


class Learner(Protocol):
    names: tuple[str, ...]
    apart: bool  # whether each principle's weights are its own
    model: nn.Module
    size: float  # of the states under the heads, by which scores are divided; see `state_size`

    def score(self, texts: Texts, which: Sequence[int]) -> Tensor:
        """(len(which), K) float32 scores of these rows."""
        ...

    def squares(self, texts: Texts, which: Sequence[int]) -> Tensor:
        """(len(which), K) mean squares of the states that the heads read of these rows."""
        ...

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Weights that learn: those of the trunk, those of the heads."""
        ...

    def weights(self, k: int) -> list[Tensor]:
        """Views of all that principle `k`'s score depends on and that learns."""
        ...

    def clip(self, limit: float) -> None:
        """Scale gradients down to norm `limit`: of each principle where they are apart."""
        ...

    def before_update(self, step: int) -> None:
        """Change the gradients of this rank's pairs, before those of all ranks are added; `step`: updates so far."""
        ...


def score_texts(
    learner: Learner, texts: Texts, which: Sequence[int], dtype: torch.dtype, tokens: int | None = None
) -> Tensor:
    """(len(which), K) scores, float32 on the CPU."""
    return _read(learner, learner.score, texts, which, dtype, tokens)


def state_size(learner: Learner, texts: Texts, which: Sequence[int], dtype: torch.dtype) -> float:
    """Root mean square of the states that the heads read of these rows, over rows, principles and components.

    A head drawn at 1/√(h + 1) is meant for states of size 1 (`draw_head`); those of pretrained models are larger.
    """
    return float(_read(learner, learner.squares, texts, which, dtype).double().mean().sqrt())


@torch.no_grad()
def _read(
    learner: Learner,
    of: Callable[[Texts, Sequence[int]], Tensor],
    texts: Texts,
    which: Sequence[int],
    dtype: torch.dtype,
    tokens: int | None = None,
) -> Tensor:
    """What `of` gives of the rows, (len(which), K), by buckets of like length; each rank reads its share of them."""
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
            found = of(texts, [which[i] for i in bucket]).cpu()
        if turn < len(own):
            scores[bucket] = found
    learner.model.train(training)
    return ranks.total(scores.to(device)).cpu()


class StackedLearner:
    """K adapters on one frozen base, K heads: what one principle learns moves no other."""

    apart = True

    def __init__(
        self,
        names: Sequence[str],
        model: nn.Module,
        lora: LoRASettings,
        pooling: Pooling,
        generators: Sequence[torch.Generator],
        split: SplitTrunk | None = None,
    ) -> None:
        """`generators`: one for each principle, for its first weights. `split`: adapt the layers above it alone."""
        self.names, self.model, self.pooling, self.split = tuple(names), model, pooling, split
        self.size, self.count = 1.0, len(generators)
        self.heads = self._drawn(generators)  # (K, H)
        pattern, layers = layer_list(model)
        among = None if split is None else [f"{pattern}.{i}" for i in range(split.first, len(layers))]
        self.stack = fresh(model, targets(model, lora.target_modules, among), lora, generators)

    def score(self, texts: Texts, which: Sequence[int]) -> Tensor:
        return torch.einsum("kbh,kh->bk", self._states(texts, which) / self.size, self.heads).float()

    def squares(self, texts: Texts, which: Sequence[int]) -> Tensor:
        return self._states(texts, which).square().mean(-1).T

    def _states(self, texts: Texts, which: Sequence[int]) -> Tensor:
        """(count, B, H), of each adapter"""
        batch, count = texts.batch(which), self.count

        def run() -> Tensor:
            if self.split is None:
                return trunk_states(self.model, batch.ids.repeat(count, 1))
            return self.split.upper(texts.lower(self.split, which, batch).repeat(count, 1, 1))

        pooled = pooled_states(self.model, batch, self.pooling, run)
        return pooled.to(self.heads.dtype).view(count, len(which), -1)

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return self._adapters(), [self.heads]

    def weights(self, k: int) -> list[Tensor]:
        return [weight.detach()[k] for weight in (*self._adapters(), self.heads)]

    def clip(self, limit: float) -> None:
        grads = [weight.grad for weight in (*self._adapters(), self.heads) if weight.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)  # (K,)
        factor = (limit / (norms + 1e-6)).clamp(max=1.0)  # as `clip_grad_norm_`, for each principle
        for grad in grads:
            grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)))

    def before_update(self, step: int) -> None:
        pass

    def adapter(self, k: int) -> Adapter:
        """A copy of principle `k`'s adapter, in peft's form."""
        layers = {
            name: (layer.lora_down[k].detach().cpu().clone(), layer.lora_up[k].detach().cpu().clone())
            for name, layer in self.stack.layers.items()
        }
        return Adapter(layers, (self.heads[k : k + 1].detach() / self.size).cpu())

    def _drawn(self, generators: Sequence[torch.Generator]) -> nn.Parameter:
        device = next(self.model.parameters()).device
        return nn.Parameter(torch.cat([draw_head(self.model, g) for g in generators]).to(device))

    def _adapters(self) -> list[nn.Parameter]:
        return [w for layer in self.stack.layers.values() for w in (layer.lora_down, layer.lora_up)]


class SharedLearner:
    """One adapter for all principles. Each has a head of its own, or (`questions`) all have one head, and the model
    reads at the end of the dialogue what it is to judge by.

    Every principle's verdicts move the one adapter, so one principle more is another network: all are trained anew.
    """

    apart = False

    def __init__(
        self,
        names: Sequence[str],
        model: nn.Module,
        lora: LoRASettings,
        pooling: Pooling,
        generator: torch.Generator,
        questions: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.names, self.model, self.pooling, self.questions = tuple(names), model, pooling, questions
        self.size = 1.0
        count = len(names) if questions is None else 1
        device = next(model.parameters()).device
        self.heads = nn.Parameter(torch.cat([draw_head(model, generator) for _ in range(count)]).to(device))
        self.stack = fresh(model, targets(model, lora.target_modules), lora, [generator])

    def score(self, texts: Texts, which: Sequence[int]) -> Tensor:
        states = self._states(texts, which) / self.size
        return (states @ self.heads.T if self.questions is None else states @ self.heads[0]).float()

    def squares(self, texts: Texts, which: Sequence[int]) -> Tensor:
        return self._states(texts, which).square().mean(-1).view(len(which), -1).expand(-1, len(self.names))

    def _states(self, texts: Texts, which: Sequence[int]) -> Tensor:
        """(B, H), or (B, K, H) at the end of each question."""
        batch = texts.batch(which)
        if self.questions is None:
            states = pooled_states(self.model, batch, self.pooling)
        else:
            states = question_states(self.model, batch, self.questions)
        return states.to(self.heads.dtype)

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return self._adapter(), [self.heads]

    def weights(self, k: int) -> list[Tensor]:
        return [weight.detach() for weight in (*self._adapter(), self.heads)]

    def clip(self, limit: float) -> None:
        nn.utils.clip_grad_norm_([*self._adapter(), self.heads], limit)

    def before_update(self, step: int) -> None:
        pass

    def adapter(self, k: int) -> Adapter:
        layers = {
            name: (layer.lora_down[0].detach().cpu().clone(), layer.lora_up[0].detach().cpu().clone())
            for name, layer in self.stack.layers.items()
        }
        row = k if self.questions is None else 0
        return Adapter(layers, (self.heads[row : row + 1].detach() / self.size).cpu())

    def _adapter(self) -> list[nn.Parameter]:
        return [w for layer in self.stack.layers.values() for w in (layer.lora_down, layer.lora_up)]


class SetsLearner(SharedLearner):
    """One adapter and one head; each pair has questions of its own, K of them: sets of principles."""

    def __init__(
        self,
        model: nn.Module,
        lora: LoRASettings,
        generator: torch.Generator,
        sets: Sequence[Sequence[Sequence[int]]],
    ) -> None:
        """sets: the ids of the questions of each of N pairs."""
        self.sets: Sequence[Sequence[Sequence[int]]] | None = sets
        super().__init__([f"sets/{k}" for k in range(len(sets[0]))], model, lora, "last", generator, ())

    def ask(self, names: Sequence[str], questions: Sequence[Sequence[int]]) -> None:
        """From now on each of `names` is a question that all dialogues are asked."""
        self.names, self.questions, self.sets = tuple(names), questions, None

    def _states(self, texts: Texts, which: Sequence[int]) -> Tensor:
        if self.sets is None:
            return super()._states(texts, which)
        own = [self.sets[row % len(self.sets)] for row in which]
        return row_question_states(self.model, texts.batch(which), own).to(self.heads.dtype)


class Scores(nn.Module):
    """A classifier and how its states are read, as one module, which DeepSpeed can run."""

    def __init__(self, model: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        return score_batch(self.model, PaddedBatch(ids, starts, lengths), self.pooling)


class FullLearner:
    """A whole model for one principle. On several ranks it may lie in parts, and `run` becomes DeepSpeed's engine."""

    apart = True

    def __init__(self, name: str, model: nn.Module, pooling: Pooling, generator: torch.Generator) -> None:
        self.names: tuple[str, ...] = (name,)
        self.model, self.run, self.size = model, Scores(model, pooling), 1.0
        weight = head(model).weight
        with sharded.gathered([weight], change=True), torch.no_grad():
            weight.copy_(draw_head(model, generator))

    def score(self, texts: Texts, which: Sequence[int]) -> Tensor:
        return self.run(*texts.batch(which)).unsqueeze(1) / self.size

    def squares(self, texts: Texts, which: Sequence[int]) -> Tensor:
        found: list[Tensor] = []
        hook = head(self.model).register_forward_pre_hook(lambda layer, args: found.append(args[0]))
        self.run(*texts.batch(which))  # the whole network, since its weights may lie in parts
        hook.remove()
        return found[0].float().square().mean(-1, keepdim=True)

    def finish(self) -> None:
        """Put `size` into the head: transformers alone then gives the same scores."""
        weight = head(self.model).weight
        with sharded.gathered([weight], change=True), torch.no_grad():
            weight /= self.size
        self.size = 1.0

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        top = {id(weight) for weight in head(self.model).parameters()}
        learning = [weight for weight in self.model.parameters() if weight.requires_grad]
        return [w for w in learning if id(w) not in top], [w for w in learning if id(w) in top]

    def weights(self, k: int) -> list[Tensor]:
        return [weight.detach() for weight in self.model.parameters() if weight.requires_grad]

    def clip(self, limit: float) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def before_update(self, step: int) -> None:
        pass
