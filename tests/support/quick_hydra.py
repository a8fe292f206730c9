"""Hydra's compositions in a quarter of the time, for tests that make hundreds of them in one process.

Nothing is left out. A YAML text is parsed once a process (a copy of the result is handed out). The map by which entries
of a defaults list refer to other entries is made only where one does, and not from the start where it names a choice
plainly. Parents of nodes are set anew once a composition, not after each of its hundred files. `test_presets` compares
the result with Hydra's own. A new Python that a test starts has Hydra as it is.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra._internal import config_loader_impl, defaults_list
from hydra.core.default_element import InputDefault
from omegaconf import OmegaConf, flag_override
from omegaconf.base import Box
from yaml import YAMLError

_load, _choices = OmegaConf.load, defaults_list._create_interpolation_map
_resolve, _flagged = InputDefault._resolve_interpolation_impl, config_loader_impl.flag_override
_embed = config_loader_impl.ConfigLoaderImpl._embed_result_config


@contextmanager
def _with(load: Any, choices: Any, resolve: Any, flagged: Any, embed: Any) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(patch.object(OmegaConf, "load", staticmethod(load)))
        stack.enter_context(patch.object(defaults_list, "_create_interpolation_map", choices))
        stack.enter_context(patch.object(InputDefault, "_resolve_interpolation_impl", resolve))
        stack.enter_context(patch.object(config_loader_impl, "flag_override", flagged))
        stack.enter_context(
            patch.object(config_loader_impl.ConfigLoaderImpl, "_embed_result_config", staticmethod(embed))
        )
        yield


def installed() -> AbstractContextManager[None]:
    return _with(_loaded, _choices_if_read, _resolved, _merging, _embedded)


def left_out() -> AbstractContextManager[None]:
    """Hydra as it is."""
    return _with(_load, _choices, _resolve, _flagged, _embed)


def _loaded(file: Any) -> Any:
    if isinstance(file, str | os.PathLike):
        with Path(file).open(encoding="utf-8") as opened:
            return _loaded(opened)
    if not isinstance(file, io.TextIOWrapper):
        return _load(file)
    try:
        return pickle.loads(_parsed(file.read()))
    except YAMLError:
        file.seek(0)
        return _load(file)  # whose error names the file


@cache
def _parsed(text: str) -> bytes:
    return pickle.dumps(_load(io.StringIO(text)))


def _choices_if_read(overrides: Any, entries: Any, self_added: bool) -> Any:
    read = [entry for entry in entries if entry.is_interpolation()]
    if all(_plainly(overrides.known_choices, entry.get_name()) for entry in read):
        return overrides.known_choices
    return _choices(overrides, entries, self_added)


def _plainly(known: Any, name: Any) -> str | None:
    """The choice that `${group}` names."""
    if not isinstance(known, dict) or not isinstance(name, str) or not name.startswith("${") or not name.endswith("}"):
        return None
    chosen = known.get(name[2:-1])
    return chosen if isinstance(chosen, str) and "${" not in chosen else None


def _resolved(entry: Any, known: Any, name: Any) -> str:
    return _plainly(known, name) or _resolve(entry, known, name)


@contextmanager
def _merging(config: Any, names: Any, values: Any = None) -> Iterator[Any]:
    if names != "no_deepcopy_set_nodes":
        with _flagged(config, names, values) as flagged:
            yield flagged
        return
    with patch.object(Box, "_re_parent", lambda _: None), _flagged(config, names, values) as flagged:
        yield flagged
    config._re_parent()


def _embedded(read: Any, package: str | None) -> Any:
    """A file's values below its package: as a copy, which pickle makes sooner, since a file may be read for several."""
    package = read.header["package"] if package is None else package
    if not package:
        return read
    below = OmegaConf.create()
    try:
        values = pickle.loads(pickle.dumps(read.config))
    except pickle.PicklingError:  # of a class that Hydra's search for plugins has imported twice
        values = copy.deepcopy(read.config)
    with flag_override(below, "no_deepcopy_set_nodes", True):
        OmegaConf.update(below, package, values, merge=False)
    return replace(read, config=below)
