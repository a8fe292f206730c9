"""From a command line to validated configs, one a job, by Hydra's presets and overrides. Builds nothing."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue

from morlaif.arms import instead, with_chosen_arms
from morlaif.errors import UserError
from morlaif.presets import last_part
from morlaif.texts import is_address

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext

    from morlaif.config import Config

CONFIG_MODULE, CONFIG_NAME = "morlaif.conf", "config"
# What does not change a run's numbers is no part of its folder's name.
ADDED = ("arms", "extra")  # keys of the config to which presets of packages add: +extra=<option>
MOST_JOBS = 1000  # of a sweep; more are a slip of the finger


class Composed(NamedTuple):
    """One job of a command line, validated before anything is built."""

    overrides: list[str]
    config: Config
    run_name: str
    launcher: str  # the class of Hydra's launcher
    tree: DictConfig  # what Hydra composed, its own part included


def register() -> None:
    """Let Hydra find all presets, and configs name their run's folder: `${morlaif.run_name:}`."""
    from hydra.core.plugins import Plugins

    from morlaif.searchpath import Presets

    Plugins.instance().register(Presets)
    OmegaConf.register_new_resolver("morlaif.run_name", lambda *, _root_: run_name(_root_), replace=True)
    OmegaConf.register_new_resolver("morlaif.judge", _judge, replace=True)
    OmegaConf.register_new_resolver("morlaif.last", last_part, replace=True)


def _judge(part: str, otherwise: str | None, *, _root_: DictConfig) -> str | None:
    """What `judge.path` says of one key of a judge's settings, or `otherwise`: `${morlaif.judge:url,http://…}`."""
    judge = _root_.get("judge") or {}
    path, served = judge.get("path"), is_address(judge.get("path"))
    found = {"folder": None if served else path} | ({"url": path, **judge} if served else {})
    return found.get(part) or otherwise


@contextmanager
def composing(config_dir: str | None) -> Iterator[None]:
    """Inside, Hydra's `compose` reads our presets and all beside them."""
    from hydra import initialize_config_module

    from morlaif.searchpath import with_folder

    register()
    with with_folder(config_dir), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        yield


def run_name(tree: DictConfig) -> str:
    """`<name>-<digest>`: the same config has the same run folder, whoever starts it and wherever the store lies."""
    return _run_name(plain(tree))


def _run_name(values: Mapping[str, Any]) -> str:
    from morlaif.settings import OUTSIDE
    from morlaif.units.unit import hash_json

    outside = OUTSIDE - {"stages"} | {"hydra"}  # how far a run goes is part of its name
    kept = {key: value for key, value in with_chosen_arms(values).items() if key not in outside}
    return f"{values['name']}-{hash_json(kept)[:8]}"


def plain(tree: DictConfig) -> dict[str, Any]:
    """The config without Hydra's part, its interpolations resolved.

    Raises:
        UserError: a value that is still to be given.
    """
    try:
        return {str(key): _plain(tree[key]) for key in tree if key != "hydra"}
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}: ??? means a value that is still to be given") from None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


def as_written(tree: DictConfig) -> dict[str, Any]:
    """The config with its interpolations as they are."""
    values: Any = OmegaConf.to_container(tree)
    return values


def compose_all(flags: Namespace) -> tuple[list[Composed], bool, str | None]:
    """`look_ahead`, whatever Hydra stumbles over.

    Raises:
        UserError: as `look_ahead`, and for an override or a preset that breaks Hydra itself.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return look_ahead(flags)
    except (UserError, HydraException, OmegaConfBaseException):
        raise
    except RecursionError:
        raise UserError("an override is nested too deeply to be read") from None
    except Exception as error:  # 5,000 digits, a preset that is no YAML: what is composed comes from the user
        reason = " ".join((str(error).strip() or type(error).__name__).split())
        raise UserError(f"the config cannot be composed: {reason[:300]}") from error


def check_package(flags: Namespace) -> None:
    """`--package` names a part of the config."""
    from hydra import compose

    from morlaif.config import Config
    from morlaif.keys import unknown_key

    with composing(flags.config_dir):
        tree = compose(CONFIG_NAME, flags.overrides)
    if flags.package != "_global_" and OmegaConf.select(tree, flags.package) is None:
        line = unknown_key(flags.package.split("."), as_written(tree), Config)
        raise UserError(f"--package {flags.package}: {line}")


def look_ahead(flags: Namespace) -> tuple[list[Composed], bool, str | None]:
    """Every job of a command line, composed and validated, whether it is a sweep, and the name of its preset.

    Raises:
        UserError: a config does not validate. HydraException: one does not compose.
    """
    from hydra import compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    from morlaif.config import Config, validate
    from morlaif.presets import options
    from morlaif.worlds import strangers

    with composing(flags.config_dir):
        # With the loader, the parser knows what globs match.
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides(flags.overrides)
        _check_words(parsed, list(Config.model_fields), options(flags.config_dir))
        swept = [str(override.input_line) for override in parsed if override.is_sweep_override()]
        unswept = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
        base = compose(CONFIG_NAME, unswept, return_hydra_config=True)
        multirun = flags.multirun or base.hydra.mode == RunMode.MULTIRUN
        for kind in ("run", "sweep"):
            if not str(as_written(base.hydra[kind])["dir"] or "").strip():
                raise UserError(f"hydra.{kind}.dir names no folder; leave it out, and name the place by paths.runs")
        if swept and not multirun:
            raise UserError(f"'{swept[0]}' gives several values: add -m to run each, or quote the value.")
        trees: Sequence[tuple[list[str], DictConfig]] = [(unswept, base)]
        if multirun and base.hydra.sweeper["_target_"].endswith(".BasicSweeper"):
            parameters = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
            every = parser.parse_overrides([*parameters, *flags.overrides])
            _check_sweep(every)
            sets = BasicSweeper.split_arguments(every, None)[0]
            trees = [(list(job), compose(CONFIG_NAME, list(job), return_hydra_config=True)) for job in sets]
        launcher = str(base.hydra.launcher.get("_target_")) if multirun else ""
        plains = [(job, plain(tree), tree) for job, tree in trees]
        jobs = [Composed(job, validate(values), _run_name(values), launcher, tree) for job, values, tree in plains]
        choices = [tree.hydra.runtime.choices for _, tree in trees]
        lines = [line for job, chosen in zip(jobs, choices, strict=True) for line in strangers(job.config, chosen)]
        if lines:
            raise UserError("\n".join(dict.fromkeys(lines)))
    _check_distinct(jobs)
    return jobs, multirun, base.hydra.runtime.choices.get("sweep")


def run_job(job: Composed, config_dir: str | None, task: Callable[[DictConfig], None]) -> None:
    """What Hydra does for one job: it makes the folder, sets the environment, calls `task` and the callbacks.

    By the function that Hydra's launchers call: its command line would compose the same config twice more, once for
    its mode alone, at a second each.
    """
    from hydra.core.utils import run_job as run
    from hydra.types import RunMode

    job.tree.hydra.mode = RunMode.RUN
    with _running(job.tree, config_dir) as context:
        context.callbacks.on_run_start(config=job.tree, config_name=CONFIG_NAME)
        done = run(task, job.tree, "hydra.run.dir", None, context)
        context.callbacks.on_run_end(config=job.tree, config_name=CONFIG_NAME, job_return=done)
    _ = done.return_value  # raises what the task raised


def is_grid(jobs: Sequence[Composed]) -> bool:
    """Whether Hydra's own sweeper has the jobs: every combination, all of them at once."""
    sweeper = jobs[0].tree.hydra.sweeper
    return sweeper["_target_"].endswith(".BasicSweeper") and sweeper.max_batch_size is None


def run_sweep(jobs: Sequence[Composed], config_dir: str | None, task: Callable[[DictConfig], None]) -> None:
    """What Hydra does for the jobs of a grid, which its command line would compose twice more each.

    A launcher beside Hydra's own, such as joblib's or Slurm's, composes each job once more, where it runs.
    """
    from hydra.types import RunMode

    first = jobs[0].tree
    first.hydra.mode = RunMode.MULTIRUN
    with _running(first, config_dir) as context:
        context.callbacks.on_multirun_start(config=first, config_name=CONFIG_NAME)
        run = _one_by_one if jobs[0].launcher.endswith(".BasicLauncher") else _launched
        done = run(jobs, context, task)
        context.callbacks.on_multirun_end(config=first, config_name=CONFIG_NAME)
    for one in done:
        _ = one.return_value  # raises what the task raised


def _one_by_one(
    jobs: Sequence[Composed], context: HydraContext, task: Callable[[DictConfig], None]
) -> Sequence[JobReturn]:
    from hydra.core.utils import run_job as run
    from hydra.types import RunMode

    done = []
    for number, job in enumerate(jobs):
        job.tree.hydra.mode = RunMode.MULTIRUN
        with open_dict(job.tree):
            job.tree.hydra.job.update(id=number, num=number)
        done.append(run(task, job.tree, "hydra.sweep.dir", "hydra.sweep.subdir", context))
    return done


def _launched(
    jobs: Sequence[Composed], context: HydraContext, task: Callable[[DictConfig], None]
) -> Sequence[JobReturn]:
    from hydra.core.plugins import Plugins

    plugins, first = Plugins.instance(), jobs[0].tree
    first.hydra.overrides.hydra = [*first.hydra.overrides.hydra, "hydra.mode=MULTIRUN"]  # as -m means on Hydra's own
    launcher = plugins.instantiate_launcher(hydra_context=context, task_function=task, config=first)
    return launcher.launch([list(job.tree.hydra.overrides.task) for job in jobs], initial_job_idx=0)


@contextmanager
def _running(tree: DictConfig, config_dir: str | None) -> Iterator[HydraContext]:
    """With Hydra's loader of presets and its callbacks."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core import utils
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext

    with composing(config_dir):
        utils.configure_log(tree.hydra.hydra_logging, tree.hydra.verbose)
        yield HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(tree))


def _check_words(overrides: Sequence[Override], keys: Sequence[str], groups: Mapping[str, set[str]]) -> None:
    """What Hydra would take, or refuse in words of its own.

    Raises:
        UserError: no key, or a group that is given something else than an option.
    """
    for override in overrides:
        key, value = override.key_or_group, override._value
        if not key:
            raise UserError(f"'{override.input_line}': there is no key before the equals sign")
        whole = override.package is None and not (override.is_delete() or override.is_sweep_override())
        if whole and key in ADDED and key in groups:
            if not override.is_add() and not isinstance(value, Mapping):
                offers = f"It offers {', '.join(sorted(groups[key]))}"
                raise UserError(f"'{override.input_line}': add an option to what is there: +{key}=<option>. {offers}")
        elif whole and key in keys and key in groups:
            offers = f"It offers {', '.join(sorted(groups[key]))}"
            if override.is_add() and not isinstance(value, Mapping):
                raise UserError(f"'{override.input_line}': the group is there already; write {key}=<option>. {offers}")
            if isinstance(value, list):
                raise UserError(f"'{override.input_line}': give one option, or several runs: -m {key}=a,b. {offers}")
            if value is None or isinstance(value, bool | int | float):
                raise UserError(f"'{override.input_line}': give one of the group's options. {offers}")
        elif key == "arms" and override.package is None and not isinstance(value, Mapping):
            raise UserError(f"'{override.input_line}': {instead(value)}")
        elif key == "extra" and whole and not isinstance(value, Mapping):
            raise UserError(f"'{override.input_line}': no package and no --config-dir has options of the group 'extra'")
        elif key in ("experiment", "budget") and value is None and not override.is_delete():
            out = ", or leave it out: ~experiment" if key == "experiment" else ""
            raise UserError(f"{key}=null: give one of the group's options{out}.")


def _check_sweep(overrides: Sequence[Override]) -> None:
    """The size of a sweep, before anything of it is made."""
    sizes = []
    for override in overrides:
        if not override.is_sweep_override():
            continue
        if not override.is_discrete_sweep():
            raise UserError(f"'{override.input_line}': give the values one by one, as a,b,c, or as range(1,4)")
        values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        if not values:
            raise UserError(f"'{override.input_line}' names no value: a sweep needs at least one")
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise UserError(f"'{override.input_line}' names {twice} twice")
        sizes.append(len(values))
    if prod(sizes) > MOST_JOBS:
        raise UserError(f"the sweep means more than {MOST_JOBS} runs; give fewer values")


def _check_distinct(jobs: Sequence[Composed]) -> None:
    """No two jobs write into one folder."""
    seen: dict[Path, Composed] = {}
    for job in jobs:
        other = seen.setdefault(job.config.paths.runs / job.run_name, job)
        if other is not job:
            raise UserError(
                f"'{' '.join(other.overrides)}' and '{' '.join(job.overrides)}' are the same run, {job.run_name}: they "
                "differ in nothing that changes its numbers"
            )


def repeated(words: Sequence[str]) -> list[str]:
    """A line for each key that a command gives two values; the last counts."""
    given: dict[str, str] = {}
    lines = []
    for word in words:
        key = word.partition("=")[0]
        if key in given and given[key] != word and not key.startswith(("+", "~")):
            lines.append(f"{key} is given twice, '{given[key]}' and '{word}': the last counts")
        given[key] = word
    return lines
