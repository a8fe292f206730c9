"""What every preset means, key by key, kept in `tests/golden/presets.json`; to write it anew, run this file.

Presets inherit, so a line in one of them can change what others mean. The file has the tree of a run without overrides,
and for each option how the tree differs from it. A key or an option that is not in the file is new, and no difference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from composed import in_full
from omegaconf import DictConfig, OmegaConf

from morlaif.presets import options

FILE = Path(__file__).parents[1] / "golden" / "presets.json"
OPTIONS = sorted(f"{group}={option}" for group, names in options().items() for option in names)
# Mappings whose keys are names, in an order that means something: these may have no key more.
NAMED = ("eval.scalarizers", "principles.definitions", "principles.ratings", "reward.parts", "scalarizer.params")

LEFT = ("arms",)  # what a run compares is no preset's business
GONE = "~"  # the list of the default's keys that an option does not have

Flat = dict[str, Any]  # a value by its dotted key


def flat(tree: Any, prefix: str = "") -> Flat:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    found: Flat = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _json(value: Any) -> str:
    return json.dumps(value)  # where 1, 1.0 and true are three things


def meaning(tree: DictConfig) -> Flat:
    """Every key of a composed config, and what a sweep's preset has it run.

    Interpolations stay as they are, but for those within one preset.
    """
    whole = OmegaConf.to_container(tree)
    plain = {key: value for key, value in whole.items() if key not in ("hydra", *LEFT)}
    own = {key: OmegaConf.select(tree, key) for key, value in flat(plain).items() if "${." in str(value)}
    return flat(plain) | own | {f"sweep:{key}": value for key, value in (tree.hydra.sweeper.params or {}).items()}


def recorded() -> dict[str, Flat]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def differences(option: str, found: Flat) -> list[str]:
    """Where `found` is not what the file says of an option."""
    kept = recorded()
    if (changed := kept.get(option)) is None:  # a new one
        return []
    expected = {key: value for key, value in kept[""].items() if key not in changed.get(GONE, ())} | changed
    expected.pop(GONE, None)
    lines = [
        f"{option}: {key} is {found.get(key, 'gone')}, not {value}"
        for key, value in expected.items()
        if key not in found or _json(found[key]) != _json(value)
    ]
    for mapping in NAMED:
        named, other = ([key for key in keys if key.startswith(mapping)] for keys in (found, expected))
        lines += [f"{option}: {named}, not {other}"] if named != other else []
    return lines


def main() -> None:
    default = meaning(in_full(hydra=True))
    kept = {"": default}
    for option in OPTIONS:
        found = meaning(in_full(option, hydra=True))
        changed = {
            key: value for key, value in found.items() if key not in default or _json(default[key]) != _json(value)
        }
        gone = [key for key in default if key not in found]
        kept[option] = changed | ({GONE: gone} if gone else {})
    FILE.write_text(json.dumps(kept, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
