"""Hydra's errors, each as one line with the near name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from morlaif.errors import suggest


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for an error of composition: what is wrong, and what would be right."""
    text = _chain(error)
    if match := re.search(r"Could not find '([^']*)'", text):
        return _unknown_option(match[1], text)
    if match := re.search(r"[Cc]ould not override '([^']*)'", text):
        return _unknown_key(match[1], overrides)
    if match := re.search(r"Could not append to config\. An item is already at '([^']*)'", text):
        return f"'+{match[1]}': the key is there already; write it without the plus."
    return " ".join(text.split("\n\n")[0].split())


def _chain(error: BaseException | None) -> str:
    """The messages of an error and of its causes."""
    parts = []
    while error is not None:
        parts.append(str(error).strip())
        error = error.__cause__
    return "\n".join(parts)


def _unknown_option(path: str, text: str) -> str:
    group, _, option = path.rpartition("/")
    offered = re.findall(r"^\t([\w./-]+)$", text, flags=re.MULTILINE)
    choices = f" It offers {', '.join(offered)}." if offered else ""
    return f"{group}={option}: no such option in group '{group}'.{suggest(option, offered)}{choices}"


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """Suggestions come from the config as the other overrides make it, so that a group's option brings its own keys."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from morlaif.cli import CONFIG_MODULE, CONFIG_NAME
    from morlaif.config import known_keys, suggest_key

    others = [override for override in overrides if override.lstrip("+~").split("=")[0] != key]
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            tree = compose(CONFIG_NAME, others)
        except HydraException:  # another mistake: what the chosen options have
            tree = compose(CONFIG_NAME, [override for override in others if "." not in override.split("=")[0]])
    return f"unknown key '{key}'.{suggest_key(key, known_keys(OmegaConf.to_container(tree)))}"
