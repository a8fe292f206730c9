"""Hydra's errors, each as one line with the near name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from morlaif.errors import suggest

PAIRS = {"(": ")", "[": "]", "{": "}"}
PLUGINS = {  # options of Hydra that come with a package, by the extra that brings it
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
}
HYDRAS_KEYS = " `morlaif --cfg hydra` prints Hydra's own keys."


def explain(error: Exception, words: Sequence[str], config_dir: str | None = None) -> str:
    """One line for an error of composition: what is wrong, and what would be right.

    Args:
        words: the overrides of the command, in their order.
        config_dir: its folder of further presets.
    """
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException):
        return unreadable(error.override, words, str(error))
    text = _chain(error)
    if match := re.search(r"Could not find '([^']*)'", text):
        return _unknown_option(match[1], text)
    if match := re.search(r"[Cc]ould not override '([^']*)'", text):
        inner = re.search(r"^Key '(.*)' is not in struct$", text, flags=re.MULTILINE)
        key = match[1] if inner is None or inner[1] in match[1].split(".") else f"{match[1]}.{inner[1]}"
        return _unknown_key(key, words, config_dir)
    if match := re.search(r"Could not append to config\. An item is already at '([^']*)'", text):
        return f"'+{match[1]}': the key is there already; write it without the plus."
    if match := re.search(r"Multiple values for ([\w/@.]+)\.", text):
        return f"'+{match[1]}': the group is there already; write it without the plus."
    if match := re.search(r"Could not delete from config\. '([^']*)' does not exist", text):
        return f"'~{match[1]}': {_unknown_key(match[1], words, config_dir)}"
    if match := re.search(r"Could not delete '([^']*)'", text):
        return f"'~{match[1]}': there is no such group or option to leave out."
    if match := re.search(r"Interpolation key '([^']*)' not found", text):
        return f"{_place(text)}: there is no key '{match[1]}' to take its value from.{_near_key(match[1], config_dir)}"
    if "Recursive interpolation" in text:
        return f"{_place(text)}: it takes its value from itself."
    if match := re.search(r"Environment variable '([^']*)' not found", text):
        default = f"${{oc.env:{match[1]},<default>}}"
        return f"{_place(text)}: the environment has no variable {match[1]}; set it, or give {default}."
    if match := re.search(r"Unsupported interpolation type (\S+)", text):
        return f"{_place(text)}: '{match[1]}' resolves nothing here; a key of the config is written ${{its.name}}."
    kept = [line.strip() for line in text.split("\n\n")[0].splitlines()]
    kept = [line for line in kept if line and not re.match(r"(full_key|object_type|See https?):?", line)]
    return re.sub(r"^Error merging override (\S+?) ", r"\1: ", " ".join(kept))


def _chain(error: BaseException | None) -> str:
    """The messages of an error and of its causes."""
    parts = []
    while error is not None:
        parts.append(str(error).strip())
        error = error.__cause__
    return "\n".join(parts)


def _place(text: str) -> str:
    """The key that an error of OmegaConf is about."""
    match = re.search(r"full_key: (\S+)", text)
    return match[1] if match else "the config"


def _unknown_option(path: str, text: str) -> str:
    group, _, option = path.rpartition("/")
    if path in PLUGINS:
        return f"{group}={option}: its package is not installed; pip install 'morlaif[{PLUGINS[path]}]'"
    offered = re.findall(r"^\t([\w./-]+)$", text, flags=re.MULTILINE)
    choices = f" It offers {', '.join(offered)}." if offered else ""
    return f"{group}={option}: no such option in group '{group}'.{suggest(option, offered)}{choices}"


def _unknown_key(key: str, words: Sequence[str], config_dir: str | None) -> str:
    """Suggestions come from the config as the other overrides make it, so that a group's option brings its own keys."""
    from morlaif.config import Config
    from morlaif.keys import unknown_key

    if key == "hydra" or key.startswith("hydra."):
        return f"unknown key '{key}'.{HYDRAS_KEYS}"
    return unknown_key(key.split("."), _tree(key, words, config_dir), Config)


def _near_key(key: str, config_dir: str | None) -> str:
    line = _unknown_key(key, [], config_dir)
    return line[line.index(" Did you mean") :] if " Did you mean" in line else ""


def _tree(key: str, words: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from morlaif.compose import CONFIG_NAME, as_written, composing

    names = {word: word.lstrip("+~").split("=")[0] for word in words}
    others = [word for word, name in names.items() if name != key and not ("." in name and key.startswith(f"{name}."))]
    choices = [word for word in others if re.fullmatch(r"[\w/]+=[\w/]+", word)]
    with composing(config_dir):
        for tried in (others, choices, []):  # another mistake: what the chosen options have
            try:
                return as_written(compose(CONFIG_NAME, tried))
            except (HydraException, OmegaConfBaseException, ValueError):
                continue
    return {}


# --- words that are no overrides -----------------------------------------------------------------------------------


def unreadable(word: str, words: Sequence[str], reason: str) -> str:
    """One line for a word that Hydra cannot read: what its writer most likely meant."""
    place = list(words).index(word) if word in words else len(words)
    before, after = words[place - 1] if place else "", list(words[place + 1 :])
    if not word.strip():
        return "an empty word is among the overrides; give key=value"
    if match := re.search(r"while evaluating '.*?': (.*)", reason):
        return f"'{word}': {match[1]}"
    if "=" not in word and before.endswith("="):
        return f"'{before} {word}': write it without a space: {before}{word.strip()}"
    if "=" not in word and after and after[0].startswith("="):
        value = after[0] if len(after[0]) > 1 else "".join(after[:2])
        return f"'{word} {after[0]}': write it without a space: {word}{value}"
    if missing := _unclosed(word):
        joined = word
        for more in after:
            joined = f"{joined} {more}"
            if not _unclosed(joined):
                return f"'{word}' ends at a space; put the whole in quotes: '{joined}'"
        return f"'{word}': {missing}"
    if "=" not in word:
        if not re.search(r"\w", word):
            return f"'{word}' is no override; give key=value"
        if match := re.match(r"([\w.]+)\s*:\s*(.*)$", word):
            return f"'{word}': write key=value: {match[1]}={match[2] or '…'}"
        flag = suggest(f"--{word}", ("--help", "--version", "--cfg", "--multirun", "--info"), 0.8)
        example = "true" if word == "dry_run" else "…"
        return f"'{word}' has no value; give key=value.{flag or f' For instance {word.strip()}={example}'}"
    key, _, value = word.partition("=")
    if key != key.strip() or value != value.lstrip():
        return f"'{word}': write it without spaces: {key.strip()}={value.strip()}"
    if match := re.match(r"([\w.]+)\[\d*\]", key):
        return f"'{word}': a list is given whole: {match[1]}=[a, b]"
    if not re.fullmatch(r"[+~]{0,2}[\w./@:$-]+", key) or key.startswith(".") or key.endswith(".") or ".." in key:
        return f"'{word}': '{key}' is no key; keys are names with dots between them, such as ppo.steps"
    if value.endswith(","):
        return f"'{word}' ends with a comma; a value is missing"
    return f"'{word}': the value cannot be read; put it in two kinds of quotes: {key}='\"…\"'"


def _unclosed(text: str) -> str | None:
    """What of brackets and quotes is not closed."""
    opened: list[str] = []
    quote = ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote and text[place - 1] != "\\" else quote
        elif character in "\"'":
            quote = character
        elif character in PAIRS:
            opened.append(character)
        elif character in PAIRS.values() and (not opened or PAIRS[opened.pop()] != character):
            return f"the {character} closes nothing"
    if quote:
        return f"the quote {quote} is not closed"
    return f"the {opened[-1]} is not closed" if opened else None
