"""The config that a command line means, without running it."""

from __future__ import annotations

import os
from functools import cache

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from morlaif.compose import register
from morlaif.config import Config, validate


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_module("morlaif.conf", version_base="1.3"):
        return compose("config", list(overrides))


def config(*overrides: str) -> Config:
    """Composed once, since nothing can change it, for each folder that its paths begin at and each environment."""
    of_tests = "PYTEST_CURRENT_TEST"  # another for each test, and read by nothing
    return _config(overrides, os.getcwd(), frozenset(item for item in os.environ.items() if item[0] != of_tests))


@cache
def _config(overrides: tuple[str, ...], *_: object) -> Config:
    return validate(OmegaConf.to_container(composed(*overrides), resolve=True))
