"""What each arm was given, and whether the arms were given the same: else a comparison compares budgets too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPARED = ("pm_pairs_each", "verdicts", "pm_settings", "rank", "ppo_episodes", "ppo_settings")


def arm_budget(
    pms: Mapping[str, Mapping[str, Any]],
    pm_manifests: Mapping[str, Mapping[str, Any]],
    qualities: Mapping[str, Mapping[str, Any]],
    feedback_manifests: Mapping[str, Mapping[str, Any]],
    ppo_manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """From the artifacts of one arm, by model: `pm.json`, `quality.json` and the manifests; what is unknown is None."""
    pairs = [report["pairs"]["train"] for report in pms.values()]
    settings = [manifest.get("reads", {}).get("pm") for manifest in pm_manifests.values()]
    shared = settings[0] if settings and all(one == settings[0] for one in settings) else None
    return {
        "pms": len(pms),
        "pm_pairs": sum(pairs) if pairs else None,
        "pm_pairs_each": max(pairs) if pairs else None,
        "pm_steps": sum(report.get("steps") or 0 for report in pms.values()) if pms else None,
        "pm_settings": shared,
        "rank": ((shared or {}).get("lora") or {}).get("r"),
        "verdicts": _verdicts(qualities, feedback_manifests),
        "usd": sum(_usd(quality) for quality in qualities.values()) if qualities else None,
        "ppo_steps": ppo_manifest.get("summary", {}).get("steps"),
        "ppo_episodes": ppo_manifest.get("summary", {}).get("episodes"),
        "ppo_settings": ppo_manifest.get("reads", {}).get("ppo"),
    }


def compared(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The budget of each arm, whether they are `equal`, and what `differs`. How many models share the pairs is what an
    arm is about, so it may differ; settings are compared whole and left out of the table."""
    first, *others = arms.values()
    differs = [key for key in COMPARED if any(other[key] != first[key] for other in others)]
    shown = {
        arm: {key: value for key, value in budget.items() if not key.endswith("_settings")}
        for arm, budget in arms.items()
    }
    return {**shown, "equal": not differs, "differs": differs}


def _verdicts(qualities: Mapping[str, Mapping], manifests: Mapping[str, Mapping]) -> int | None:
    """Verdicts on the training pairs: for the baseline as many a pair as principles were drawn for it."""
    if not qualities:
        return None
    total = 0
    for name, quality in qualities.items():
        each = manifests.get(name, {}).get("reads", {}).get("verdicts_per_pair", 1)
        total += quality["train"]["n"] * each
    return total


def _usd(quality: Mapping[str, Any]) -> float:
    return sum(quality[split]["cost"]["usd"] for split in ("train", "eval") if split in quality)
