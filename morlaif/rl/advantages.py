"""How much better than expected was each token? One pure function for each estimator, all of one signature.

An estimator takes `Trajectories`, further keywords of its own if it has any (`ppo.advantage_params`), and returns
advantages (B, T) with the critic's targets (B, T), or None where there is no critic. Padding is zero in both. Nothing
here imports torch, so that settings can ask an estimator for its traits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Estimate: TypeAlias = "tuple[Tensor, Tensor | None]"  # advantages and the critic's targets

EPS = 1e-4  # keeps a group of equal rewards at zero instead of at noise over noise
Function = TypeVar("Function", bound="Callable[..., Estimate]")


@dataclass(frozen=True)
class Trajectories:
    """B responses of at most T tokens, padded on the right, as B / group groups that each answer one prompt."""

    rewards: Tensor  # (B, T) of each token
    values: Tensor  # (B, T) the critic's estimate before each token; zero without a critic
    mask: Tensor  # (B, T) bool: a token of the response
    group: int  # responses to one prompt, neighbours in the batch
    gamma: float
    lam: float

    @property
    def totals(self) -> Tensor:
        """(B / group, group): the reward of each response."""
        return self.rewards.sum(1).unflatten(0, (-1, self.group))

    def spread(self, gains: Tensor) -> Tensor:
        """A response's advantage on each of its tokens: (B / group, group) -> (B, T)."""
        return gains.flatten()[:, None] * self.mask


@dataclass(frozen=True)
class Traits:
    """What an estimator wants of the settings."""

    critic: bool = False  # it reads the critic's values
    grouped: bool = False  # it compares several responses to one prompt
    apart: bool = False  # each principle's scores are normalised within the group before the objective combines them


def estimator(*, critic: bool = False, grouped: bool = False, apart: bool = False) -> Callable[[Function], Function]:
    """Decorator that declares an estimator's traits; one without it has none of them."""

    def attach(function: Function) -> Function:
        function.traits = Traits(critic, grouped, apart)  # type: ignore[attr-defined]
        return function

    return attach


def traits(function: Callable[..., Estimate]) -> Traits:
    return getattr(function, "traits", Traits())


@estimator(critic=True)
def gae(t: Trajectories, *, critic_lam: float | None = None) -> Estimate:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        A_t = Σ_k (γλ)^k δ_{t+k},   δ_t = r_t + γ V_{t+1} - V_t,   V after the last token is 0

    The critic's target is advantages + values, by `critic_lam` in place of λ where it is given (decoupled, Yuan 2025,
    arXiv 2503.01491): at 1 it is the return itself. Else a critic that begins at zero sees λ^k of a reward that is k
    tokens ahead.
    """
    rewards, values = t.rewards * t.mask, t.values * t.mask
    following = values.roll(-1, 1)
    following[:, -1] = 0
    surprises = rewards + t.gamma * following - values
    gains = discounted(surprises, t.gamma * t.lam)
    of_critic = gains if critic_lam is None else discounted(surprises, t.gamma * critic_lam)
    return gains * t.mask, (of_critic + values) * t.mask


@estimator()
def reinforce_pp(t: Trajectories) -> Estimate:
    """REINFORCE++ (Hu 2025, arXiv 2501.03262): returns to go; its baseline is the whitening of the batch after it."""
    return discounted(t.rewards * t.mask, t.gamma) * t.mask, None


@estimator(grouped=True)
def rloo(t: Trajectories) -> Estimate:
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740, section 2): r - mean of the group's others."""
    others = (t.totals.sum(1, keepdim=True) - t.totals) / (t.group - 1)
    return t.spread(t.totals - others), None


@estimator(grouped=True)
def grpo(t: Trajectories) -> Estimate:
    """Group-relative (DeepSeekMath, arXiv 2402.03300, section 4.1): (r - mean) / deviation of the group."""
    return t.spread(group_normalized(t.rewards.sum(1, keepdim=True), t.group)), None


@estimator(grouped=True)
def dr_grpo(t: Trajectories) -> Estimate:
    """GRPO done right (Liu et al. 2025, arXiv 2503.20783, section 3): r - mean of the group, over no deviation, which
    would weigh prompts by how alike their answers are."""
    return t.spread(t.totals - t.totals.mean(1, keepdim=True)), None


@estimator(grouped=True, apart=True)
def gdpo(t: Trajectories) -> Estimate:
    """Group-reward-decoupled (arXiv 2601.05242): the rewards combine scores that went through `group_normalized` apart.

    Here only their group's mean goes, which a non-linear scalarizer leaves behind; the normalisation over the responses
    of the batch follows (`whiten_responses`).
    """
    return t.spread(t.totals - t.totals.mean(1, keepdim=True)), None


def discounted(x: Tensor, discount: float) -> Tensor:
    """Sums to go, Σ_k discount^k x_{t+k}: (B, T) -> (B, T)."""
    sums = x.clone()
    for i in reversed(range(x.shape[1] - 1)):
        sums[:, i] += discount * sums[:, i + 1]
    return sums


def group_normalized(scores: Tensor, group: int) -> Tensor:
    """Each of K columns to mean 0 and deviation 1 within each group of rows: (B, K) -> (B, K)."""
    groups = scores.unflatten(0, (-1, group))  # (B / group, group, K)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + EPS)).flatten(0, 1)
