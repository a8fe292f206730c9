"""Preference models that are given more than `pm` says, for baselines of the same budget as one model a principle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from morlaif.errors import UserError
from morlaif.preference.settings import EnsemblePM, LoraPM, PMSettings, TrainedPM, TrunkPM


def given_more(pm: PMSettings, factors: Mapping[str, int], key: str) -> PMSettings:
    """`pm` with so many times the members, steps or rank.

    Raises:
        UserError: this kind of model has none; `key` is that of the factors.
    """
    for what, times in factors.items():
        pm = {"members": _members, "steps": _steps, "rank": _rank}[what](pm, times, f"{key}.{what}")
    return pm


def _steps(pm: PMSettings, times: int, key: str) -> PMSettings:
    if not isinstance(pm, TrainedPM):
        raise UserError(f"{key}: {times} times the steps of a model that is not trained here (pm.kind {pm.kind})")
    return _with(pm, epochs=times * pm.epochs)


def _rank(pm: PMSettings, times: int, key: str) -> PMSettings:
    lora = getattr(pm, "lora", None)
    if lora is None:
        raise UserError(f"{key}: pm.kind {pm.kind} has no adapter whose rank could grow; use pm=lora or pm=trunk")
    # alpha / r, the scale of the update, stays
    return _with(pm, lora=lora.model_copy(update={"r": times * lora.r, "alpha": times * lora.alpha}))


def _members(pm: PMSettings, times: int, key: str) -> PMSettings:
    if isinstance(pm, EnsemblePM):
        return _with(pm, members=times * pm.members)
    if not isinstance(pm, LoraPM | TrunkPM):
        raise UserError(
            f"{key}: an ensemble has members of pm.kind lora or trunk, not {pm.kind}; use pm=lora or pm=trunk"
        )
    own: dict[str, Any] = {"top": 1.0, "cache_gb": 0.0} | dict(pm)
    plain = {"aggregate": "mean", "penalty": 0, "bootstrap": False, "diversity": 0.0, "shared_steps": 0}
    return EnsemblePM(**own | {"kind": "ensemble", "member": pm.kind, "members": times} | plain)


def _with(pm: Any, **changes: Any) -> PMSettings:
    """Validated anew: a product may be more than a setting allows."""
    made: PMSettings = type(pm)(**dict(pm) | changes)
    return made
