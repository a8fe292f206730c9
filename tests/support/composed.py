"""The config that a command line means, without running it."""

from __future__ import annotations

import os
import shlex
from functools import cache

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from morlaif.compose import compose_all, register
from morlaif.config import Config, validate
from morlaif.errors import UserError
from morlaif.mistakes import explain
from morlaif.usage import read_flags


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """`hydra`: with Hydra's own part."""
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
