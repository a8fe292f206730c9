"""The config that a command line means, without running it."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shlex
import tempfile
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override, open_dict
from omegaconf.errors import OmegaConfBaseException

from morlaif.compose import compose_all, register
from morlaif.config import Config, validate
from morlaif.errors import UserError
from morlaif.mistakes import explain
from morlaif.presets import options, places
from morlaif.usage import read_flags


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """What Hydra composes; `hydra`: with its own part.

    Reading the presets takes most of the time, so the same presets are read once, and values set in a copy as Hydra
    sets them, after all presets (`test_values_set_in_a_copy_are_what_hydra_composes`).
    """
    parsed = OverridesParser.create().parse_overrides([*overrides])
    values = [] if hydra else [item for item in parsed if _is_value(item)]
    kept = {item.input_line for item in values}
    tree = _presets(tuple(line for line in overrides if line not in kept))
    if not hydra:
        with open_dict(tree):
            del tree["hydra"]
    for item in values:
        OmegaConf.update(tree, item.key_or_group, item.value(), merge=True)
    return tree


def _is_value(override: Override) -> bool:
    """Whether it sets a key that stands in the tree, rather than choosing a preset, adding or deleting."""
    plain = not (override.is_add() or override.is_force_add() or override.is_delete() or override.is_sweep_override())
    return plain and override.package is None and override.key_or_group not in _groups()


@cache
def _groups() -> frozenset[str]:
    return frozenset(["hydra", *options()])


def _presets(overrides: tuple[str, ...]) -> DictConfig:
    """Options that set keys of their own groups alone are taken from trees that have one of each such group."""
    rows = _rows(tuple(places()))
    groups = {option.partition("=")[0] for option in overrides}
    if not overrides or len(groups) < len(overrides) or not all(option in rows for option in overrides):
        return _kept(overrides)
    tree = _kept(())
    choices = dict(tree.hydra.runtime.choices)
    with flag_override(tree, ["struct", "no_deepcopy_set_nodes"], [False, True]):
        for option in overrides:
            group, row = option.partition("=")[0], _kept(rows[option])
            tree[group] = row[group]
            of_group = re.compile(rf"{group}(?![^/@])").match
            choices = {name: chosen for name, chosen in choices.items() if not of_group(name)}
            choices |= {name: chosen for name, chosen in row.hydra.runtime.choices.items() if of_group(name)}
        tree.hydra.runtime.choices = choices
    return tree


def _kept(overrides: tuple[str, ...]) -> DictConfig:
    return pickle.loads(_pickled(overrides))  # a copy, in an eighth of the time that deepcopy takes


@cache
def _pickled(overrides: tuple[str, ...]) -> bytes:
    """Composed once for all processes of a run of tests, whose folder of temporary files is theirs alone."""
    register()  # what interpolations of a tree ask that another process has kept
    key = hashlib.sha256("\n".join([*overrides, str(places())]).encode()).hexdigest()
    kept = Path(tempfile.gettempdir()) / f"composed-{key}.pickle"
    if (shared := "morlaif-tests-" in str(kept)) and kept.is_file():
        return kept.read_bytes()
    pickled = pickle.dumps(in_full(*overrides, hydra=True))
    if shared:
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_bytes(pickled)
        partial.rename(kept)
    return pickled


@cache
def _rows(_: tuple[Path, ...]) -> dict[str, tuple[str, ...]]:
    """By option, those composed in one go with it."""
    groups = {group: sorted(names) for group, names in options().items() if _is_apart(group)}
    depth = max(map(len, groups.values()))
    rows = [tuple(f"{group}={names[i]}" for group, names in groups.items() if i < len(names)) for i in range(depth)]
    return {option: row for row in rows for option in row}


def _is_apart(group: str) -> bool:
    """Whether no option of it, and nothing that these inherit from, says a word of another part of the tree, and none
    of another group depends on which is chosen."""
    files = [file for place in places() for file in (place / group).rglob("*.yaml")]
    return not ("/" in group or group == "data" or any(re.search("@package|override ", f.read_text()) for f in files))


def in_full(*overrides: str, hydra: bool = False) -> DictConfig:
    """Composed by Hydra alone."""
    register()
    with initialize_config_module("morlaif.conf", version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=hydra)


def config(*overrides: str) -> Config:
    """Composed once, since nothing can change it, for each folder that its paths begin at and each environment."""
    of_tests = "PYTEST_CURRENT_TEST"  # another for each test, and read by nothing
    return _config(overrides, os.getcwd(), frozenset(item for item in os.environ.items() if item[0] != of_tests))


@cache
def _config(overrides: tuple[str, ...], *_: object) -> Config:
    return validate(OmegaConf.to_container(composed(*overrides), resolve=True))


def told(command: str) -> str:
    """What the command line says of `command`, without a process of its own."""
    register()
    words = shlex.split(command)
    try:
        flags = read_flags(words)
    except UserError as error:
        return str(error)
    try:
        compose_all(flags)
    except UserError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error, flags.overrides)
    return ""
