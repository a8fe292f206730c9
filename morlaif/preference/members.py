"""Members of an ensemble that learn in one pass: with an adapter each, or with one adapter and a head each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from morlaif import ranks
from morlaif.models.adapters import Adapter
from morlaif.models.settings import LoRASettings
from morlaif.preference.learners import StackedLearner, Texts
from morlaif.preference.model import Pooling
from morlaif.preference.split import SplitTrunk


class MembersLearner(StackedLearner):
    """K principles with M members each: K·M scores, those of a principle side by side.

    The members of a principle learn from the same batches. They differ by their heads' first weights, by what a
    bootstrap leaves them and, where adapters are their own, by `diversity`: so many times the nuclear norm of the
    members' down-projections, one below another and averaged over layers, is taken off the loss (UP-RLHF, 2401.00243).
    """

    def __init__(
        self,
        names: Sequence[str],
        members: int,
        model: nn.Module,
        lora: LoRASettings,
        pooling: Pooling,
        generators: Sequence[torch.Generator],
        split: SplitTrunk | None = None,
        *,
        one_adapter: bool = False,
        diversity: float = 0.0,
        shared_steps: int = 0,
    ) -> None:
        """
        Args:
            generators: of each member of each principle.
            one_adapter: members differ in their heads alone.
            shared_steps: for so many steps members have copies of one adapter, before each has its own (2401.16635).
        """
        self.members, self.diversity, self.shared_steps = members, diversity, shared_steps
        super().__init__(names, model, lora, pooling, generators[::members] if one_adapter else generators, split)
        self.names = tuple(f"{name}/{member}" for name in names for member in range(members))
        if one_adapter:
            self.heads = self._drawn(generators)
        elif shared_steps:
            with torch.no_grad():
                for weight in self._adapters():
                    self._of_principles(weight).copy_(self._of_principles(weight)[:, :1].clone())

    def score(self, texts: Texts, which: Sequence[int]) -> Tensor:
        states = self._states(texts, which) / self.size  # (K or K·M, B, H)
        heads = self.heads.view(self.count, -1, states.shape[-1])
        return torch.einsum("abh,amh->bam", states, heads).flatten(1).float()

    def squares(self, texts: Texts, which: Sequence[int]) -> Tensor:
        return super().squares(texts, which).repeat_interleave(self._heads_each, dim=1)

    def weights(self, k: int) -> list[Tensor]:
        own = k // self._heads_each
        return [*(weight.detach()[own] for weight in self._adapters()), self.heads.detach()[k]]

    def clip(self, limit: float) -> None:
        """The members of a principle have one norm: while they share an adapter its copies must stay alike."""
        grads = [weight.grad for weight in (*self._adapters(), self.heads) if weight.grad is not None]
        count = len(self.names) // self.members
        norms = torch.stack([grad.view(count, -1).norm(dim=1) for grad in grads]).norm(dim=0)
        factor = (limit / (norms + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.view(count, -1).mul_(factor.unsqueeze(1))

    def before_update(self, step: int) -> None:
        if step < self.shared_steps:
            for weight in self._adapters():
                if weight.grad is not None:
                    grads = self._of_principles(weight.grad)
                    grads.copy_(grads.mean(1, keepdim=True))
        elif self.diversity and ranks.is_first():  # it is one for all ranks, whose gradients are added
            (-self.diversity * self.spread().sum()).backward()

    def spread(self) -> Tensor:
        """(K,): ‖[A₁; …; A_M]‖* of each principle's members, averaged over the adapted layers."""
        downs = (self._of_principles(layer.lora_down) for layer in self.stack.layers.values())
        return torch.stack([nuclear_norm(down) for down in downs]).mean(0)

    def adapter(self, k: int) -> Adapter:
        """A copy of the adapter of score `k`, with its head."""
        own = super().adapter(k // self._heads_each)
        return replace(own, head=(self.heads[k : k + 1].detach() / self.size).cpu())

    @property
    def _heads_each(self) -> int:
        """Scores of each adapter."""
        return len(self.names) // self.count

    def _of_principles(self, rows: Tensor) -> Tensor:
        """(K·M, ...) as (K, M, ...), in the same memory."""
        return rows.view(-1, self.members, *rows.shape[1:])


def nuclear_norm(matrices: Tensor) -> Tensor:
    """(..., M, r, in) -> (...): the sum of the singular values of the M matrices, one below another.

    √M ‖A‖* where they are all alike, M ‖A‖* where their rows are orthogonal to those of the others.
    """
    return torch.linalg.matrix_norm(matrices.flatten(-3, -2).double(), ord="nuc").float()


def bootstrap_counts(total: int, learnt: Sequence[int], generator: torch.Generator) -> Tensor:
    """(total,) how often each pair is drawn where as many as `learnt` are drawn from these, with replacement."""
    drawn = torch.randint(len(learnt), (len(learnt),), generator=generator)
    counts = torch.zeros(total)
    counts[torch.tensor(learnt)] = drawn.bincount(minlength=len(learnt)).float()
    return counts
