"""What differs between runs: the keys of their configs that differ, and short names made of their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from morlaif.report.data import words
from morlaif.settings import OUTSIDE

Flat = Mapping[str, Any]  # a config: dotted key -> value
# Groups whose `name` says it all: while it differs, their other keys differ with it.
NAMED = ("scalarizer", "model")
PRINCIPLES = "principles"  # made up: how many of them a run uses


class RunLabels:
    """Names for runs, and for what groups of runs share."""

    def __init__(self, configs: Sequence[Flat]) -> None:
        self.keys = differing(configs)

    def row(self, config: Flat) -> dict[str, str]:
        """The differing keys of one run, as its row of the table shows them."""
        return {key: shown(config.get(key)) for key in self.keys}

    def distinguish(self, group: Sequence[Flat], *others: Sequence[Flat], but: Sequence[str] = ()) -> str:
        """What `group` shares and `others` (which may hold it) do not, without the keys in `but`."""
        phrases = []
        for key in (key for key in self.keys if key not in but):
            values = {shown(config.get(key)) for config in group}
            differ = any({shown(config.get(key)) for config in other} != values for other in others)
            if len(values) == 1 and differ:
                phrases.append(phrase(key, values.pop()))
        return " · ".join(phrases)


def differing(configs: Sequence[Flat]) -> list[str]:
    """Keys whose values differ, in the order of the configs; what follows from another difference is left out."""
    keys = [key for key in dict.fromkeys(key for config in configs for key in config) if _differs(key, configs)]
    for group in NAMED:
        if f"{group}.name" in keys:
            inside = [key for key in keys if key.startswith(f"{group}.") and key != f"{group}.name"]
            keys = [key for key in keys if key not in inside or _differs_within(key, f"{group}.name", configs)]
    if PRINCIPLES in keys:  # the count says what `principles.count` and `principles.select` say
        keys = [key for key in keys if key != "principles.count"]
    return keys


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, without what changes no number. Lists are values."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if prefix or key not in OUTSIDE | {"name"}:
            dotted = f"{prefix}{key}"
            found |= flat(value, f"{dotted}.") if isinstance(value, Mapping) and value else {dotted: value}
    return found


def is_seed(key: str) -> bool:
    """Whether a key of a config says from where something random draws."""
    return key.rpartition(".")[2] == "seed"


def shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)


def phrase(key: str, value: str) -> str:
    """ "scalarizer.name", "max_min" -> "max-min"; "ppo.kl.coef", "0.1" -> "kl coef 0.1"."""
    if key == PRINCIPLES:
        return f"{value} principle" + ("" if value == "1" else "s")
    if key in [f"{group}.name" for group in NAMED]:
        return value.replace("_", "-")
    parts = key.split(".")
    name = parts[-1] if len(parts) < 3 or parts[-2] == "params" else f"{parts[-2]} {parts[-1]}"
    if parts[-1] in ("method", "kind", "source", "name"):
        name = parts[0]
    return f"{words(name)} {value}"


def heading(key: str) -> str:
    """A key as the head of a column: the name of a named group says which option it is."""
    return key.removesuffix(".name") if key in [f"{group}.name" for group in NAMED] else key


def _differs(key: str, configs: Sequence[Flat]) -> bool:
    """A key that a config does not have yet, or that its choice of group lacks, is no difference."""
    return len({repr(config[key]) for config in configs if key in config}) > 1


def _differs_within(key: str, name: str, configs: Sequence[Flat]) -> bool:
    """Whether `key` differs among configs of one and the same `name`."""
    groups: dict[str, list[Flat]] = {}
    for config in configs:
        groups.setdefault(str(config.get(name)), []).append(config)
    return any(_differs(key, group) for group in groups.values())
