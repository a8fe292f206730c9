"""What of a curve is unhealthy, a sentence each, with what usually helps. Each threshold is here, with its reason.

A figure is judged by its mean over the last third of the steps, where a run shows what it has come to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

LEAST = 3  # steps: fewer show nothing but their beginning
Curve = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sign:
    """A figure of the curve that lies on the wrong side of `limit`. `says` and `helps` are parts of the sentence."""

    key: str
    side: Literal["above", "below"]
    limit: float
    says: str  # with {value}, and {name}: what is behind the slash of a key that ends with one
    helps: str
    of: Literal["value", "first step", "median"] = "value"  # first step: over that one's; median: the largest over it


SIGNS = (
    # Spinning Up's PPO stops an update at 1.5 × target_kl, "usually small, .01 or .05".
    Sign("approx_kl_k3", "above", 0.05, "the policy moves {value:.2g} nats a token within a step (usual: below .05)",
         "a lower ppo.optimizer.learning_rate, or fewer ppo.epochs"),
    # Where the ratio is beyond the clip a token gives no gradient; .1 to .2 is usual for a clip of .2.
    Sign("clip_fraction", "above", 0.3, "{value:.0%} of the tokens are beyond the clip and teach nothing",
         "a lower ppo.optimizer.learning_rate, or fewer ppo.epochs"),
    # A token of negative advantage is not bounded above by the clip; Ye et al. 2020 (1912.09729) bound it at 3.
    Sign("ratio_max", "above", 10, "single tokens become {value:.3g} times as likely within a step, and no clip bounds "
         "their loss where the advantage is negative", "a lower ppo.optimizer.learning_rate"),
    # DAPO (2503.14476, section 3.1) shows entropy falling to a small part before exploration ends.
    Sign("entropy", "below", 0.2, "entropy is {value:.0%} of the first step's: responses to a prompt become alike",
         "a higher ppo.kl.coef, a lower learning rate, or a small ppo.entropy_coef", of="first step"),
    # The clip of the norm then takes nearly all of that update (PaLM, 2204.02311, section 5.1, skips such batches).
    Sign("grad_norm", "above", 10, "the gradient's norm has a spike of {value:.3g} times its median",
         "more ppo.rollouts, ppo.shaping.clip, or a lower ppo.optimizer.max_grad_norm", of="median"),
    # By its definition: 0 is what a constant explains.
    Sign("explained_variance", "below", 0, "the critic explains less than a constant (explained variance {value:.2g})",
         "ppo.critic.warmup_steps, or a higher ppo.critic.learning_rate"),
    # Where the clipped loss is the larger one, a state gives the critic no gradient.
    Sign("value_clip_fraction", "above", 0.5, "{value:.0%} of the states are beyond the value's clip and teach nothing",
         "a wider ppo.clip_range_value, or null"),
    # A clip is for outliers; beyond it responses have no order any more.
    Sign("reward_clipped", "above", 0.1, "{value:.0%} of the rewards lie at the clip, where none is the better one",
         "a wider ppo.shaping.clip, or ppo.shaping.scaling=running"),
    # For small gaps k3 is half their square: .01 is gaps of .14 nats, a tenth or more of every probability. float32
    # leaves 1e-6 to 1e-4 (docs/launch.md).
    Sign("sampler/kl_k3", "above", 0.01, "the sampler is {value:.2g} nats a token from the policy that learns",
         "ppo.importance_cap=2, hardware.dtype=float32, or ppo.overlap=false"),
    # The update then lowers that principle's score, whatever it weighs.
    Sign("advantage_cosine/", "below", -0.1, "the reward works against {name} (cosine of their advantages {value:.2f})",
         "a higher weight for it, or a scalarizer that guards the lowest score (max_min, log_sum_exp, cvar)"),
    # What the other principles say is then within a tenth of the reward's deviation.
    Sign("variance_share/", "above", 0.8, "of the reward's variance {value:.0%} is made by {name} alone",
         "weights.normalizer=running, or a lower weight for it"),
    # Four rows in five have the same lowest principle: the others are never the ones to be improved.
    Sign("decides/", "above", 0.8, "of the reward's slope {value:.0%} is decided by {name} alone",
         "weights.normalizer=running, or a softer scalarizer (log_sum_exp, cvar)"),
)  # fmt: skip


def findings(curve: Curve) -> list[str]:
    """A sentence for each sign that a curve shows; none for one of less than `LEAST` steps."""
    return [sentence for sign in SIGNS for sentence in _shown(sign, curve)] if len(curve) >= LEAST else []


def _shown(sign: Sign, curve: Curve) -> Iterator[str]:
    last = curve[-(-2 * len(curve) // 3) :]
    keys = [key for key in last[-1] if key.startswith(sign.key)] if sign.key.endswith("/") else [sign.key]
    if len(keys) == 1 and sign.key.endswith("/"):
        return  # of one principle
    for key in keys:
        values = [float(row[key]) for row in curve if key in row]
        if not values or _chosen(sign, values):
            continue
        value = fmean([float(row[key]) for row in last if key in row] or values[-1:])
        if sign.of == "first step":
            value = value / values[0] if values[0] > 0 else 1.0
        elif sign.of == "median":
            middle = median(values)
            value = max(values) / middle if middle > 0 else 1.0
        if value > sign.limit if sign.side == "above" else value < sign.limit:
            name = key.removeprefix(sign.key).replace("_", " ")
            sentence = sign.says.format(value=value, name=name)
            yield f"{sentence[0].upper()}{sentence[1:]}. What usually helps: {sign.helps}."


def _chosen(sign: Sign, values: Sequence[float]) -> bool:
    """A slope that is the same at every step is the settings' choice, as the weights of a sum are."""
    return sign.key == "decides/" and max(values) - min(values) < 1e-6
