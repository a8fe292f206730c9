"""Losses of pairs, element by element, as functions of `Compared`. Nothing here imports torch at its top.

A loss takes `Compared`, further keywords of its own if it has any (`dpo.loss_params`), and returns (N, K). The trainer
weighs what it returns and divides the sum by the pairs of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from morlaif.settings import Decay

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Compared:
    """N pairs of responses and K verdicts on each. Gradients flow through `chosen` and `rejected` alone.

    The two sides of a pair are called as in most data; which of them is better, `target` says.
    """

    chosen: Tensor  # (N,) log π - log π_ref of the first response, summed over its tokens
    rejected: Tensor  # (N,) of the second one
    chosen_tokens: Tensor  # (N,) tokens of the first response, the one that ends it included
    rejected_tokens: Tensor  # (N,)
    target: Tensor  # (N, K) probability that the first response is better; 1 or 0 where labels are hard
    margin: Tensor  # (N, K) what others than the judged objective say of the pair, in units of β; 0 in DPO
    scale: Tensor  # (K,) 1 / the weight of the judged objective; 1 in DPO
    beta: float

    @property
    def logits(self) -> Tensor:
        """(N, K) log-odds, by the policy, that the first response is better:

            scale · (β · (chosen - rejected) - margin)

        With margin 0 and scale 1 that of DPO (arXiv 2305.18290, eq. 7); of MODPO (arXiv 2310.03708, eq. 9, and its
        authors' trainer) with the weighted rewards of the other objectives as the margin.
        """
        moved = self.beta * (self.chosen - self.rejected)
        return self.scale * (moved[:, None] - self.margin)


def sigmoid(c: Compared, *, label_smoothing: Decay = 0.0) -> Tensor:
    """(N, K) cross-entropy of σ(logits) against the target; with targets of 1 it is DPO's -log σ(logits).

    `label_smoothing` ε takes each target t to (1 - 2ε) t + ε: the verdict is wrong with that chance (cDPO, Mitchell
    2023, "A note on DPO with noisy preferences"). A judge's probability as the target says so for each pair by itself.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    target = (1 - 2 * label_smoothing) * c.target + label_smoothing
    return binary_cross_entropy_with_logits(c.logits, target.to(c.logits), reduction="none")


def ipo(c: Compared) -> Tensor:
    """(N, K) (h - (t - ½) / β)² (Azar et al. 2023, arXiv 2310.12036; with t = 1 its eq. 17, β called τ there).

    h is the difference of the log-ratios, each a mean over the response's tokens, as the authors and TRL have it: a sum
    would make the loss grow with length. It bounds how far a sure pair is pushed. A target t of the judge's stands for
    the p* of eq. 7. Scale and margin act on β h, as they do on β times the sums in `sigmoid`.
    """
    moved = self_mean(c.chosen, c.chosen_tokens) - self_mean(c.rejected, c.rejected_tokens)
    h = c.scale * (moved[:, None] - c.margin / c.beta)
    return (h - (c.target - 0.5).to(h) / c.beta).square()


def self_mean(total: Tensor, tokens: Tensor) -> Tensor:
    """(N,) sums over so many tokens as their means."""
    return total / tokens.clamp(min=1)
