"""The config that a command line means, without running it."""

from __future__ import annotations

from functools import cache

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from morlaif.compose import register
from morlaif.config import Config, validate


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_module("morlaif.conf", version_base="1.3"):
        return compose("config", list(overrides))


@cache
def config(*overrides: str) -> Config:
    """Composed once: nothing can change a config."""
    return validate(OmegaConf.to_container(composed(*overrides), resolve=True))
