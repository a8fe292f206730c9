"""The one entrypoint: compose, validate, plan, dispatch. No torch: a mistake costs one line and half a second."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hydra import main as hydra_main
from omegaconf import DictConfig, OmegaConf

from morlaif.errors import MachineError, UserError
from morlaif.launch.processes import forget_launchers

if TYPE_CHECKING:
    from morlaif.config import Config

CONFIG_MODULE, CONFIG_NAME = "morlaif.conf", "config"
# What does not change a run's numbers is no part of its folder's name.
OUTSIDE_RUN_NAME = ("hydra", "paths", "dry_run", "hardware", "tracking", "compare", "human")
HUMAN_SPELLINGS = re.compile(r"^(eval|evaluate)\.human=")  # people's ratings are part of no unit, so of no group `eval`
SWEEP_VARIABLE = "MORLAIF_SWEEP"  # tells the jobs of a sweep, in whatever process they run, which sweep it is
SUCCESS, FAILURE, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


class Composed(NamedTuple):
    """One job of a command line, validated before anything is built."""

    overrides: list[str]
    config: Config
    run_name: str


def main() -> None:
    """Exit codes: 0 all built; 1 a unit failed; 2 a mistake in the command, the config or the data; 130 interrupted."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    forget_launchers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to here, where each becomes one line
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    OmegaConf.register_new_resolver("morlaif.run_name", lambda *, _root_: run_name(_root_), replace=True)
    try:
        code = _main()
    except UserError as error:
        code = _say(str(error))
    except MachineError as error:
        _say(str(error))
        code = FAILURE
    except (HydraException, OmegaConfBaseException) as error:
        from morlaif.mistakes import explain

        code = _say(explain(error, [argument for argument in sys.argv[1:] if not argument.startswith("-")]))
    except KeyboardInterrupt:
        print("morlaif: interrupted; the same command continues where it stopped", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def _say(message: str) -> int:
    from morlaif.texts import redact, visible

    for line in visible(redact(message), lines=True).split("\n"):
        print(f"morlaif: {line}", file=sys.stderr)
    return USER_ERROR


def _main() -> int:
    from hydra._internal.utils import get_args_parser

    sys.argv[1:] = [HUMAN_SPELLINGS.sub("human=", word) for word in sys.argv[1:]]
    flags = get_args_parser().parse_intermixed_args()
    # Hydra's own parser does not take overrides on both sides of a flag.
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in flags.overrides] + flags.overrides
    hydra_run = hydra_main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(_job)
    if flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion:
        _copy_repository_once()
        hydra_run()
        return SUCCESS
    jobs, multirun, preset = look_ahead(flags)
    if jobs[0].config.stages == ("compare",):
        return _compare(jobs)
    if jobs[0].config.human.action is not None:
        return _human(jobs)
    if jobs[0].config.dry_run:
        return _dry_run(jobs)
    return _sweep(hydra_run, jobs, preset) if multirun else _single(hydra_run)


def _copy_repository_once() -> None:
    """Hydra copies its whole repository of configs for each group that its help lists: most of the help's time."""
    from functools import cache

    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import IConfigRepository
    from hydra.core.object_type import ObjectType

    @cache
    def repository(loader: ConfigLoaderImpl) -> IConfigRepository:
        return loader._parse_overrides_and_create_caching_repo(None, [])[1]

    def get_group_options(
        self: ConfigLoaderImpl, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG
    ) -> list[str]:
        return repository(self).get_group_options(group_name, results_filter)

    ConfigLoaderImpl.get_group_options = get_group_options


def look_ahead(flags: Namespace) -> tuple[list[Composed], bool, str | None]:
    """Every job of a command line, composed and validated, whether it is a sweep, and the name of its preset.

    Raises:
        UserError: a config does not validate. HydraException: one does not compose.
    """
    from hydra import compose, initialize_config_module
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    from morlaif.config import validate

    found = ["pkg://morlaif.sweeps", *([f"file://{Path(flags.config_dir).absolute()}"] if flags.config_dir else [])]
    search = f"hydra.searchpath=[{','.join(found)}]"
    parser = OverridesParser.create()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        parsed = parser.parse_overrides(flags.overrides)
        swept = [override.input_line for override in parsed if override.is_sweep_override()]
        plain = [override.input_line for override in parsed if not override.is_sweep_override()]
        try:
            base = compose(CONFIG_NAME, [*plain, search], return_hydra_config=True)
        except ValueError as error:  # Hydra lets `group=null` through to here
            empty = next((override.key_or_group for override in parsed if override.value() is None), "")
            raise UserError(f"{empty}=null: give one of the group's options, or leave it out: ~{empty}.") from error
        multirun = flags.multirun or base.hydra.mode == RunMode.MULTIRUN
        if swept and not multirun:
            raise UserError(f"'{swept[0]}' gives several values: add -m to run each, or quote the value.")
        trees = [(plain, base)]
        if multirun and base.hydra.sweeper["_target_"].endswith(".BasicSweeper"):
            parameters = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
            sets = BasicSweeper.split_arguments(parser.parse_overrides([*parameters, *flags.overrides]), None)[0]
            trees = [(list(job), compose(CONFIG_NAME, [*job, search])) for job in sets]
        return [
            Composed(job, validate(OmegaConf.to_container(_own(tree), resolve=True)), run_name(tree))
            for job, tree in trees
        ], multirun, base.hydra.runtime.choices.get("sweep")


def _own(tree: DictConfig) -> DictConfig:
    """The config without Hydra's part."""
    return OmegaConf.masked_copy(tree, [key for key in tree if key != "hydra"])


def run_name(tree: DictConfig) -> str:
    """`<name>-<digest>`: the same config has the same run folder, whoever starts it and wherever the store lies."""
    from morlaif.pipeline.unit import hash_json

    kept = [key for key in tree if key not in OUTSIDE_RUN_NAME]
    return f"{tree.name}-{hash_json(OmegaConf.to_container(OmegaConf.masked_copy(tree, kept), resolve=True))[:8]}"


_outcome: list[Exception] = []  # what ended the job of this process; Hydra would print it with a traceback


def _job(tree: DictConfig) -> None:
    """One job, called by Hydra, perhaps in another process or on another machine: what it leaves is its run folder."""
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    from morlaif.config import validate
    from morlaif.launch.devices import own_gpu
    from morlaif.pipeline.run import run
    from morlaif.texts import line

    hydra = HydraConfig.get()
    config = validate(OmegaConf.to_container(tree, resolve=True))
    folder = Path(hydra.runtime.output_dir)
    sweep = os.environ.get(SWEEP_VARIABLE)
    overrides = list(hydra.overrides.task)
    command = _command(overrides if sweep else sys.argv[1:])
    console = Console(highlight=False)
    if sweep:
        console.rule(line(f"job {hydra.job.num + 1}: {' '.join(overrides) or 'defaults'}"), align="left")
    _outcome.clear()
    try:
        with own_gpu(hydra.launcher["_target_"], config.hardware):
            run(config, folder, command=command, overrides=overrides, group=sweep or config.name, console=console)
    except Exception as error:
        _outcome.append(error)


def _command(words: Sequence[str]) -> str:
    """The command of `words`, as pages and records show it."""
    from morlaif.texts import redact

    return redact(shlex.join(["morlaif", *words]))


def _single(hydra_run: Callable[[], None]) -> int:
    from morlaif.pipeline.run import RunFailed

    hydra_run()
    if not _outcome:
        return SUCCESS
    if isinstance(_outcome[0], RunFailed):
        return FAILURE  # its closing table has said why
    raise _outcome[0]


def _sweep(hydra_run: Callable[[], None], jobs: list[Composed], preset: str | None) -> int:
    from rich.console import Console

    from morlaif.pipeline.sweep import Sweep

    console, config = Console(highlight=False), jobs[0].config
    command = _command(sys.argv[1:])
    sweep = Sweep(config.paths.runs, [(job.overrides, job.run_name) for job in jobs], command, preset)
    os.environ[SWEEP_VARIABLE] = sweep.name
    try:
        hydra_run()
    finally:
        sweep.close(console)
    compared = sweep.compare(config, console)
    return SUCCESS if compared and not sweep.any_failed() else FAILURE


def _compare(jobs: list[Composed]) -> int:
    """`stages=[compare]`: a page for the finished runs that `compare.runs` names."""
    from rich.console import Console

    from morlaif.pipeline.sweep import compare_runs

    if len(jobs) > 1:
        raise UserError("stages=[compare] is one job, not a sweep: name the runs in compare.runs")
    console, command = Console(highlight=False), _command(sys.argv[1:])
    return SUCCESS if compare_runs(jobs[0].config, command, console) else FAILURE


def _human(jobs: list[Composed]) -> int:
    """`human=export` and `human=import`: of each finished run that the command names."""
    from rich.console import Console

    from morlaif.pipeline.human import rate

    console = Console(highlight=False)
    for job in jobs:
        rate(job.config, job.run_name, console)
    return SUCCESS


def _dry_run(jobs: list[Composed]) -> int:
    from functools import partial

    from rich.console import Console

    from morlaif.launch.batches import check_batches
    from morlaif.launch.launcher import on_ranks
    from morlaif.pipeline.cost import cost_table, feedback_costs
    from morlaif.pipeline.display import plan_table
    from morlaif.pipeline.plan import plan
    from morlaif.pipeline.resources import resources
    from morlaif.pipeline.served import with_served
    from morlaif.pipeline.store import Store
    from morlaif.texts import say

    console = Console(highlight=False)
    for job in jobs:
        say(console, (job.run_name, "bold"), f"  {' '.join(job.overrides)}")
        config = with_served(job.config, partial(say, console), wait=False)
        planned, store = plan(config), Store(config.paths.store)
        check_batches(planned, config.hardware, on_ranks)
        console.print(plan_table(planned, store))
        if costs := feedback_costs(planned, store, config):
            console.print()
            console.print(cost_table(costs))
        if (needed := resources(planned, config)) is not None:
            console.print()
            console.print(needed)
    return SUCCESS


if __name__ == "__main__":
    main()
