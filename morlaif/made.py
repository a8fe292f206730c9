"""Models that a command has made before anything else: `pm.base=made:toy_small`, the SFT model of another `model`."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from morlaif.claims.cells import key_of, quoted, words_of_runs
from morlaif.compose import Composed, compose_all
from morlaif.config import Config
from morlaif.errors import UserError
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.units.store import Store

KEY = "pm.base"
MADE = re.compile(r"\bmade:([\w./-]+)")


class Made(NamedTuple):
    """A model that is the SFT model of a run of its own."""

    name: str  # an option of the group `model`
    job: Composed
    folder: Path  # of its artifact, whether or not that is there yet

    @property
    def is_there(self) -> bool:
        return self.folder.is_dir()


def made_models(flags: Namespace) -> list[Made]:
    """The models that values of `pm.base` ask to be made, each with the words of the command that an SFT model is of:
    those that are swept, and what is said of the policy's model, are left out.

    Raises:
        UserError: there is no such option, or the run does not compose with it.
    """
    names = [name for word in flags.overrides if key_of(word) == KEY for name in MADE.findall(word)]
    return [_made(name, flags) for name in dict.fromkeys(names)]


def with_folders(overrides: Sequence[str], made: Sequence[Made]) -> list[str]:
    """The words of a command, with `made:` as the folders that they mean.

    >>> with_folders(["pm.base=null", "seed=0"], [])
    ['pm.base=null', 'seed=0']
    """
    folders = {one.name: quoted(str(one.folder / "model")) for one in made}
    return [MADE.sub(lambda match: folders[match[1]], word) if key_of(word) == KEY else word for word in overrides]


def without_base(config: Config) -> Config:
    """The config with preference models on the policy's own base: what of it can be checked before theirs is there."""
    return config.model_copy(update={"pm": config.pm.model_copy(update={"base": None})})


def _made(name: str, flags: Namespace) -> Made:
    kept = [word for word in words_of_runs(flags.overrides) if _is_of_sft(word)]
    words = [*kept, f"model={name}", "stages=[sft]"]
    try:
        (job, *others), _, _ = compose_all(Namespace(**{**vars(flags), "overrides": words, "multirun": False}))
    except UserError as error:
        raise UserError("\n".join(f"{KEY}=made:{name}: {line}" for line in str(error).splitlines())) from None
    assert not others
    if job.config.sft.method == "none":
        raise UserError(f"{KEY}=made:{name}: sft=none makes no model; name its folder or hub id: {KEY}={name}")
    unit = plan(job.config, Contents(job.config.paths.store)).by_name["sft"]
    return Made(name, job, Store(job.config.paths.store).folder(unit))


def _is_of_sft(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key = key_of(word)
    if re.match(r"(model|stages|pm)(\.|=|@|$)", key):
        return False
    (override,) = OverridesParser.create().parse_overrides([word])
    return not override.is_sweep_override()
