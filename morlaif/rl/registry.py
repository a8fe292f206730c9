"""Advantage estimators and policy losses by name, without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from morlaif.params import checked, wanted
from morlaif.registry import Registry
from morlaif.rl.advantages import Estimate, Trajectories
from morlaif.rl.losses import Actions

if TYPE_CHECKING:
    from torch import Tensor

Estimator: TypeAlias = Callable[[Trajectories], Estimate]
PolicyLoss: TypeAlias = "Callable[[Actions], Tensor]"
T = TypeVar("T", bound=Callable[..., Any])

ESTIMATORS: Registry[Estimator] = Registry(
    "estimator", "ppo.advantage", "morlaif.rl.advantages",
    {name: f"morlaif.rl.advantages.{name}" for name in ("gae", "rloo", "grpo", "dr_grpo", "gdpo", "reinforce_pp")},
)  # fmt: skip
LOSSES: Registry[PolicyLoss] = Registry(
    "policy_loss", "ppo.loss", "morlaif.rl.losses",
    {name: f"morlaif.rl.losses.{name}" for name in ("clip", "clip_sequence", "reinforce")},
)  # fmt: skip


def with_params(registry: Registry[T], name: str, params: Mapping[str, Any]) -> T:
    """What `name` means, its keywords bound to `params`.

    Raises:
        UserError: there is none, or a parameter does not fit its signature.
    """
    function = registry.find(name)
    own = wanted(function, first=1)
    bound = checked(params, own, key=f"{registry.key}_params", path=registry.path(name), name=name)
    made: Any = partial(function, **bound) if bound else function  # of one signature with `function`
    return made
