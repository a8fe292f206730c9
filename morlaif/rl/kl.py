"""The divergence between policy and reference: estimators from samples, and the controllers of its coefficient.

Estimators (J. Schulman, "Approximating KL Divergence", 2020) of KL[policy || reference] at tokens drawn from the
policy. With l = log policy - log reference, the mean of k1 = l and of k3 = exp(-l) - 1 + l is the KL; k2 = l²/2 is near
it where l is small. As a loss, the gradient of k1 has mean zero, that of k2 is the gradient of the KL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased, of either sign, any shape."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Biased, never negative, any shape."""
    return 0.5 * (logprobs - ref_logprobs).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased, never negative, any shape."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


@dataclass(frozen=True)
class KLController:
    """Beta, the price of a nat. Adaptive as in Ziegler et al. 2019 (1909.08593, section 2.2); no target: fixed."""

    coef: float
    target: float | None  # nats a sequence
    horizon: float  # episodes

    def update(self, kl: float, episodes: int) -> KLController:
        """The controller after `episodes` sequences whose mean KL (summed over tokens) was `kl`.

        coef ← coef · (1 + clip(kl / target - 1, ±0.2) · episodes / horizon)
        """
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return replace(self, coef=self.coef * (1 + error * episodes / self.horizon))
