"""The flags of the command and its help, from the folders of presets alone: asking loads nothing."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from morlaif.errors import UserError, suggest
from morlaif.presets import options
from morlaif.texts import is_address

HELP = """\
morlaif: experiments in multi-objective reinforcement learning from AI feedback.

Usage: morlaif [group=option] [key=value] …
  morlaif                                   the quickstart, on the toy world
  morlaif scalarizer=max_min principles.count=4
  morlaif -m scalarizer=linear,max_min      a sweep: every combination, upstream units shared
  morlaif sweep=scalarizers                 a sweep preset, from sweeps/
  morlaif sweep=claims claim=<name>         what a paper claims, tested over seeds; without a name, all claims
  morlaif dry_run=true                      what would be built, what is there already, what would stop it
  morlaif stages=[pm]                       build up to the preference models and stop
  morlaif stages=[compare] compare.runs='runs/*'   one page for several finished runs
  morlaif steer run=<run> weights={{detail: 2, conciseness: 0}} prompt="…"   ask a policy that takes weights, or a soup
  morlaif human=export human.run=<run>      a blinded form for raters; human=import reads what they return
  morlaif --cfg job                         the composed config; docs/config.md explains every key

== Groups (group=option) ==
{groups}

Plain keys: name seed stages arms dry_run paths.store paths.runs, and every key of a group, e.g. ppo.steps=50.
Flags: {flags}
  --config-dir FOLDER adds a folder of presets; --hydra-help tells of the others, which are Hydra's.
"""

# Keys below these are names of the user's: there may be none yet, and Hydra adds one with a plus.
NAMED = re.compile(
    r"(arms\.definitions|eval\.policies|claims\.models|extra|(data|feedback|reward|eval\.judge\.engine)\.params)\."
)
VALUED = ("cfg", "package", "config_dir", "info")  # flags with a value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(_explain(message, list(self._option_string_actions)))


def parser() -> argparse.ArgumentParser:
    """Hydra's flags, as far as they do something here."""
    made = _Parser(prog="morlaif", add_help=False, allow_abbrev=False)
    flags: dict[tuple[str, ...], dict[str, Any]] = {
        ("--help", "-h"): {"action": "store_true"},
        ("--hydra-help",): {"action": "store_true"},
        ("--version",): {"action": "store_true"},
        ("--cfg", "-c"): {"choices": ["job", "hydra", "all"]},
        ("--resolve",): {"action": "store_true"},
        ("--package", "-p"): {},
        ("--run", "-r"): {"action": "store_true"},
        ("--multirun", "-m"): {"action": "store_true"},
        ("--shell-completion", "-sc"): {"action": "store_true"},
        ("--config-dir", "-cd"): {},
        ("--info", "-i"): {
            "nargs": "?", "const": "all",
            "choices": ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
        },
    }  # fmt: skip
    for names, meaning in flags.items():
        made.add_argument(*names, **meaning)
    made.add_argument("overrides", nargs="*")
    return made


def read_flags(words: Sequence[str]) -> argparse.Namespace:
    """The flags and overrides of a command line, on whichever side of each other they are.

    Raises:
        UserError: a flag that there is not, or one that lacks or misses its value.
    """
    for word in words:
        if re.match(r"--?(config-path|cp|config-name|cn|experimental-rerun)(=|$)", word):
            raise UserError(f"{word.split('=')[0]} is not offered; --config-dir FOLDER adds a folder of presets")
    flags = parser().parse_intermixed_args(list(words))
    flags.overrides = [f"++{word}" if NAMED.match(word) else word for word in flags.overrides]
    if (flags.package or flags.resolve) and not flags.cfg:
        raise UserError(f"{'--package' if flags.package else '--resolve'} belongs to --cfg job")
    if flags.run and flags.multirun:
        raise UserError("--run and --multirun exclude each other; give one")
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        raise UserError(f"--config-dir {flags.config_dir}: there is no such folder")
    return flags


def with_judge(words: Sequence[str]) -> list[str]:
    """The words of a command line, and the preset of the judge that an address as `judge.path` means.

    >>> with_judge(["judge.path=http://localhost:8000/v1"])
    ['judge.path=http://localhost:8000/v1', 'judge=server']
    """
    given = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("judge.path=")]
    if not given or not is_address(given[-1]) or any(word.startswith("judge=") for word in words):
        return list(words)
    return [*words, f"judge={'openai' if urlsplit(given[-1]).hostname == 'api.openai.com' else 'server'}"]


def with_claims(words: Sequence[str]) -> list[str]:
    """The words of a command line, `claim=` as what it is short for.

    >>> with_claims(["claim=a,b"])
    ['claims.select=[a,b]', 'sweep=claims']
    """
    short = [word for word in words if word.startswith("claim=")]
    if not short:
        return list(words)
    value = short[-1].partition("=")[2]
    chosen = value if value.startswith("[") or value == "all" else f"[{value}]"
    made = [f"claims.select={chosen}" if word == short[-1] else word for word in words if word not in short[:-1]]
    return made if any(word.startswith("sweep=") for word in words) else [*made, "sweep=claims"]


# What `morlaif steer` has for short.
STEERED = (
    "run", "arm", "weights", "choices", "prior", "search", "prompt", "prompts", "out", "page", "policy", "steps",
    "seed", "temperature",
)  # fmt: skip


def with_steer(words: Sequence[str]) -> list[str]:
    """The words of a command line, those after `steer` as keys of that group; a shell parts weights at their spaces.

    >>> with_steer(["steer", "run=r", "weights={detail:", "2}", "prompt=Why, then?"])
    ['steer=answer', 'steer.run="r"', 'steer.weights={detail: 2}', 'steer.prompt="Why, then?"']
    """
    if "steer" not in words[:1]:
        return list(words)
    found: list[str] = ["steer=answer"]
    whole = list[str]()
    for word in words[1:]:  # braces that a shell has parted
        if whole and whole[-1].startswith("weights=") and whole[-1].count("{") > whole[-1].count("}"):
            whole[-1] += f" {word}"
        else:
            whole.append(word)
    for word in whole:
        key, equals, value = word.partition("=")
        if not equals or key not in STEERED:
            if equals and "." not in key and (near := suggest(key, STEERED)):
                raise UserError(f"steer: no key '{key}'.{near}")
            found.append(word)
        elif key in ("weights", "prior", "search", "steps", "seed", "temperature"):
            found.append(f"steer.{key}={value}")
        else:  # a text as it is, whatever Hydra would read in it
            escaped = re.sub(r'(\\+)(?=$|")', r"\1\1", value).replace('"', '\\"')
            found.append(f'steer.{key}="{escaped}"')
    return found


def usage(config_dir: str | None) -> str:
    """The help, with the options of every group: of ours, of installed packages, and of a folder beside them."""
    found = options(config_dir)
    groups = "\n".join(f"{group}: {', '.join(sorted(found[group]))}" for group in sorted(found))
    flags = "--help, --version, --cfg job, --multirun (-m), --info, --shell-completion"
    return HELP.format(groups=groups, flags=flags)


def _top_keys() -> list[str]:
    from morlaif.config import Config

    return [*Config.model_fields, "experiment", "sweep"]


def _explain(message: str, known: list[str]) -> str:
    """argparse's message as one line that helps."""
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        name, equals, value = match[1].lstrip("-").partition("=")
        key = name.replace("-", "_")
        near = get_close_matches(match[1], known, n=1, cutoff=0.75)
        if key.split(".")[0] in _top_keys():
            given = value if equals else "true" if key == "dry_run" else "…"
            return f"unknown flag '{match[1]}': keys are written without dashes: {key}={given}"
        return f"unknown flag '{match[1]}'.{f' Did you mean {near[0]}?' if near else ' --help lists the flags.'}"
    if match := re.match(r"argument (\S+?): invalid choice: '(.*?)' \(choose from (.*)\)", message):
        flag, choices = match[1].split("/")[0], re.sub("'", "", match[3]).split(", ")
        return f"{flag} {match[2]}: it offers {', '.join(choices)}.{suggest(match[2], choices)}"
    if match := re.match(r"argument (\S+?): expected .*argument", message):
        flag = match[1].split("/")[0]
        return f"{flag} needs a value{', such as --cfg job' if flag == '--cfg' else ''}"
    return message
