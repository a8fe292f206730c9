"""The config that a command line means, without running it."""

from __future__ import annotations

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from morlaif.cli import run_name
from morlaif.config import Config, validate


def composed(*overrides: str) -> DictConfig:
    OmegaConf.register_new_resolver("morlaif.run_name", lambda *, _root_: run_name(_root_), replace=True)
    with initialize_config_module("morlaif.conf", version_base="1.3"):
        return compose("config", list(overrides))


def config(*overrides: str) -> Config:
    return validate(OmegaConf.to_container(composed(*overrides), resolve=True))
