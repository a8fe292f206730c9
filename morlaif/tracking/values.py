"""Values for trackers, made fit for them: no secret, no NaN, dicts that a table of runs can be filtered by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

# Words in a metric's name that say which way is better. A divergence from SFT is what a reward costs, and no way is
# better; nor of a policy's loss, whose value says nothing.
_MORE = ("reward", "score", "accuracy", "win_rate", "validity", "agreement", "kappa", "ended", "strength", "gain")
_LESS = ("loss", "ece", "brier", "flip", "invalid", "usd", "seconds")
_NEITHER = ("kl", "policy_loss", "clipped", "deviation", "histogram", "updates", "epochs", "stopped", "low", "high")


def filterable(value: Any) -> Any:
    """Lists as dicts, since wandb filters and groups runs by the keys of dicts alone.

    Dicts that have names become a dict by name; words become {word: true}; anything else is numbered.
    """
    if isinstance(value, Mapping):
        return {str(key): filterable(item) for key, item in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    if value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {str(item["name"]): filterable(item) for item in value}
    if all(isinstance(item, str) for item in value) and len(set(value)) == len(value):
        return dict.fromkeys(value, True)
    return {str(place): filterable(item) for place, item in enumerate(value)}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; None is left out, since a summary is made of numbers."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, path)
        elif value is not None:
            flat[path] = value
    return flat


def goal(metric: str) -> Literal["maximize", "minimize"] | None:
    """Which way a metric is better, by its name; None where that depends."""
    words = re.split(r"[./_\s]+", metric.lower())
    name = "_".join(words)
    if any(word in words or ("_" in word and word in name) for word in _NEITHER):
        return None
    if any(word in words for word in _LESS):
        return "minimize"
    return "maximize" if any(word in words or word in name for word in _MORE) else None


def spread(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Metrics of a step as what a chart can show: single numbers, numbers of each update, and histograms.

    `updates/x` holds a list with one for each update of the step; of a list `epochs/x` each place has a chart of its
    own, `epochs/x/1` …; `histogram/x` is a dict of edges and counts. Other tables are for files alone.
    """
    flat: dict[str, Any] = {}
    updates: list[dict[str, Any]] = []
    histograms: dict[str, Any] = {}
    for name, value in metrics.items():
        kind = name.partition("/")[0]
        if isinstance(value, list) and kind == "updates":
            updates += [{} for _ in value[len(updates) :]]
            for row, one in zip(updates, value, strict=False):
                row[name] = number(one)
        elif isinstance(value, list):
            flat |= {f"{name}/{place}": number(one) for place, one in enumerate(value, 1)}
        elif isinstance(value, Mapping):
            if kind == "histogram":
                histograms[name] = value
        else:
            flat[name] = number(value)
    return flat, updates, histograms


def number(value: Any) -> float | int | str | None:
    """JSON has no NaN: null. Tensors and numpy scalars give their number."""
    with suppress(AttributeError):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
