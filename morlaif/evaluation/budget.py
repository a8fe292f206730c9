"""What each arm was given, and whether the arms were given the same: else a comparison compares budgets too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from morlaif.evaluation.results import ArmBudget, Budgets

COMPARED = ("pm_pairs_each", "verdicts", "pm_settings", "rank", "ppo_episodes", "ppo_settings")


@dataclass(frozen=True, slots=True)
class Given:
    """The budget of one arm, and the settings that it was spent with."""

    budget: ArmBudget
    pm_settings: Any  # None where its preference models do not share them
    ppo_settings: Any

    def value(self, key: str) -> Any:
        """What `key` of COMPARED is."""
        return getattr(self if key.endswith("_settings") else self.budget, key)


def arm_budget(
    pms: Mapping[str, Mapping[str, Any]],
    pm_manifests: Mapping[str, Mapping[str, Any]],
    qualities: Mapping[str, Mapping[str, Any]],
    feedback_manifests: Mapping[str, Mapping[str, Any]],
    ppo_manifest: Mapping[str, Any],
) -> Given:
    """From the artifacts of one arm, by model: `pm.json`, `quality.json` and the manifests; what is unknown is None."""
    pairs = [report["pairs"]["train"] for report in pms.values()]
    settings = [manifest.get("reads", {}).get("pm") for manifest in pm_manifests.values()]
    shared = settings[0] if settings and all(one == settings[0] for one in settings) else None
    budget = ArmBudget(
        pms=len(pms),
        pm_pairs=sum(pairs) if pairs else None,
        pm_pairs_each=max(pairs) if pairs else None,
        pm_steps=sum(report.get("steps") or 0 for report in pms.values()) if pms else None,
        rank=((shared or {}).get("lora") or {}).get("r"),
        verdicts=_verdicts(qualities, feedback_manifests),
        usd=sum(_usd(quality) for quality in qualities.values()) if qualities else None,
        ppo_steps=ppo_manifest.get("summary", {}).get("steps"),
        ppo_episodes=ppo_manifest.get("summary", {}).get("episodes"),
    )
    return Given(budget, shared, ppo_manifest.get("reads", {}).get("ppo"))


def compared(arms: Mapping[str, Given]) -> Budgets:
    """The budget of each arm, whether they are `equal`, and what `differs`. How many models share the pairs is what an
    arm is about, so it may differ; settings are compared whole and left out of the table."""
    first, *others = arms.values()
    differs = [key for key in COMPARED if any(other.value(key) != first.value(key) for other in others)]
    return Budgets({arm: given.budget for arm, given in arms.items()}, not differs, differs)


def _verdicts(qualities: Mapping[str, Mapping[str, Any]], manifests: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Verdicts on the training pairs: for the constitution as many a pair as principles were drawn for it."""
    if not qualities:
        return None
    total = 0
    for name, quality in qualities.items():
        each = manifests.get(name, {}).get("reads", {}).get("verdicts_per_pair", 1)
        total += quality["train"]["n"] * each
    return total


def _usd(quality: Mapping[str, Any]) -> float:
    return sum(quality[split]["cost"]["usd"] for split in ("train", "eval") if split in quality)
