"""The one entrypoint: compose, validate, plan, dispatch. No torch: a mistake costs one line and half a second."""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from morlaif.errors import MachineError, UserError, describe, of_system
from morlaif.signals import Ended, end_in_order

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from morlaif.compose import Composed
    from morlaif.config import Config
    from morlaif.made import Made
    from morlaif.pipeline.timing import Times
    from morlaif.units.store import Store
    from morlaif.units.unit import Plan

HUMAN_SPELLINGS = re.compile(r"^(eval|evaluate)\.human=")  # people's ratings are part of no unit, so of no group `eval`
SWEEP_VARIABLE = "MORLAIF_SWEEP"  # tells the jobs of a sweep, in whatever process they run, which sweep it is
SUCCESS, FAILURE, USER_ERROR = 0, 1, 2


def main() -> None:
    """Exit codes: 0 all built; 1 a unit, or the machine, failed, or nobody reads what is printed; 2 a mistake in the
    command, the config or the data; 128 + n ended by signal n.
    """
    from morlaif.launch.processes import forget_launchers
    from morlaif.texts import print_anywhere

    end_in_order()
    print_anywhere()
    forget_launchers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors through to here, where each becomes one line
    try:
        code = _main()
        sys.stdout.flush()
    except Ended as end:
        code = end.status
    except (UserError, MachineError) as error:
        code = _tell(error)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILURE
    except OSError as error:
        code = _tell(of_system(error))
    except Exception as error:
        code = _tell(_fault(error))
    sys.exit(code)


def _say(message: str) -> None:
    from morlaif.texts import redact, visible

    for line in visible(redact(message), lines=True).split("\n"):
        print(f"morlaif: {line}", file=sys.stderr)


def _tell(error: UserError | MachineError) -> int:
    _say(str(error))
    return USER_ERROR if isinstance(error, UserError) else FAILURE


def _fault(error: Exception) -> MachineError:
    """One line for a fault of the program, which says where its traceback is."""
    import tempfile
    import traceback

    from morlaif.pipeline.run import RunFailed
    from morlaif.texts import redact

    if isinstance(error, RunFailed):
        return MachineError(str(error))
    line = describe(error)
    try:
        with tempfile.NamedTemporaryFile("w", prefix="morlaif-", suffix=".traceback.txt", delete=False) as file:
            file.write(redact("".join(traceback.format_exception(error))))
    except OSError:
        return MachineError(line)
    return MachineError(f"{line}; traceback: {file.name}")


def _main() -> int:
    from morlaif.usage import read_flags, usage, with_claims, with_judge, with_steer

    words = with_claims(with_judge([HUMAN_SPELLINGS.sub("human=", word) for word in with_steer(sys.argv[1:])]))
    flags = read_flags(words)
    if flags.help:
        print(usage(flags.config_dir), end="")
        return SUCCESS
    if flags.version:
        from importlib.metadata import version

        print(f"morlaif {version('morlaif')}")
        return SUCCESS
    sys.argv[1:] = _for_hydra(flags)
    with _explained(flags):
        return _answer(flags)


def _for_hydra(flags: Namespace) -> list[str]:
    """The command line in the order that Hydra's own parser takes."""
    from morlaif.usage import VALUED

    given = vars(flags)
    words = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is True]
    words += [f"--{name.replace('_', '-')}={given[name]}" for name in VALUED if given[name] is not None]
    return [*words, *flags.overrides]


@contextmanager
def _explained(flags: Namespace) -> Iterator[None]:
    """An error of Hydra's as one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        from morlaif.mistakes import explain

        raise UserError(explain(error, flags.overrides, flags.config_dir)) from None


def _answer(flags: Namespace) -> int:
    from hydra import main as hydra_main

    from morlaif.compose import (
        CONFIG_MODULE,
        CONFIG_NAME,
        check_package,
        compose_all,
        is_grid,
        register,
        repeated,
        run_sweep,
    )

    register()
    hydra_run = hydra_main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(_job)
    if flags.hydra_help or flags.cfg or flags.info or flags.shell_completion:
        if flags.package is not None:
            check_package(flags)
        hydra_run()
        return SUCCESS
    for line in repeated(flags.overrides):
        _say(line)
    made = _made_models(flags)
    jobs, multirun, preset = compose_all(flags)
    if jobs[0].config.stages == ("compare",):
        return _compare(jobs)
    if jobs[0].config.human.action is not None:
        return _human(jobs)
    if jobs[0].config.steer.action is not None:
        return _steer(jobs)
    missing, dry_run = [one.job for one in made if not one.is_there], jobs[0].config.dry_run
    if missing and not dry_run:
        _make_first(missing, jobs, flags.config_dir)
    if jobs[0].config.claims.select is not None:
        return _claims(flags, jobs)
    _check_places(jobs)
    if dry_run:
        return _dry_run(missing, waiting=len(jobs)) if missing else _dry_run(jobs)
    if not multirun:
        return _single(jobs[0], flags.config_dir)
    if is_grid(jobs):
        return _sweep(partial(run_sweep, jobs, flags.config_dir, _job), jobs, preset)
    return _sweep(hydra_run, jobs, preset)


def _made_models(flags: Namespace) -> list[Made]:
    """Those that `pm.base=made:…` asks for; their folders stand in the command from here on."""
    if not any("made:" in word for word in flags.overrides):
        return []
    from morlaif.made import made_models, with_folders

    found = made_models(flags)
    flags.overrides = with_folders(flags.overrides, found)
    sys.argv[1:] = _for_hydra(flags)
    return found


def _make_first(makers: list[Composed], readers: list[Composed], config_dir: str | None) -> None:
    """Build the models that `readers` read, which are checked first as far as they can be without."""
    from rich.console import Console

    from morlaif.made import without_base
    from morlaif.pipeline.preflight import Preflight
    from morlaif.texts import say

    _check_places([*makers, *readers])
    configs = [job.config for job in makers] + [without_base(job.config) for job in readers]
    Preflight(elsewhere=_elsewhere(readers)).check(configs)
    for job in makers:
        say(Console(highlight=False), f"the model of {job.run_name} is made first")
        _single(job, config_dir)


def _check_places(jobs: list[Composed]) -> None:
    """Before Hydra makes the run folders."""
    from morlaif.units.folders import place_problems

    problems = (place_problems("paths.runs", job.config.paths.runs / job.run_name) for job in jobs)
    if lines := list(dict.fromkeys(line for found in problems for line in found)):
        raise UserError("\n".join(lines))


_outcome: list[Exception] = []  # what ended the job of this process; Hydra would print it with a traceback


def _job(tree: DictConfig) -> None:
    """One job, called by Hydra, perhaps in another process or on another machine: what it leaves is its run folder."""
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    from morlaif.compose import plain
    from morlaif.config import validate
    from morlaif.devices import own_gpu
    from morlaif.pipeline.run import run
    from morlaif.texts import line, say

    hydra = HydraConfig.get()
    config = validate(plain(tree))
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
        if sweep:
            say(console, ("failed:", "bold red"), f" {error}", lines=True)


def _command(words: Sequence[str]) -> str:
    """The command of `words`, as pages and records show it."""
    from morlaif.texts import redact

    return redact(shlex.join(["morlaif", *words]))


def _single(job: Composed, config_dir: str | None) -> int:
    from morlaif.compose import run_job

    run_job(job, config_dir, _job)
    if _outcome:
        raise _outcome[0]
    return SUCCESS


def _sweep(run_jobs: Callable[[], None], jobs: list[Composed], preset: str | None) -> int:
    from rich.console import Console

    from morlaif.pipeline.preflight import Preflight
    from morlaif.pipeline.sweep import Sweep

    _check_submits(jobs)
    Preflight(elsewhere=_elsewhere(jobs)).check(job.config for job in jobs)
    console, config = Console(highlight=False), jobs[0].config
    command = _command(sys.argv[1:])
    sweep = Sweep(config.paths.runs, [(job.overrides, job.run_name) for job in jobs], command, preset)
    os.environ[SWEEP_VARIABLE] = sweep.name
    try:
        run_jobs()
    finally:
        sweep.close(console)
    compared = sweep.compare(config, console)
    match sweep.failed():
        case "":
            return SUCCESS if compared else FAILURE
        case "by mistake":
            return USER_ERROR
    return FAILURE


def _claims(flags: Namespace, jobs: list[Composed]) -> int:
    """`sweep=claims`: the runs that the claims need, then the table of their verdicts."""
    from rich.console import Console

    from morlaif.claim_runs import launch, prepared
    from morlaif.pipeline.claims import Gathered, lay_down, table_of, tell
    from morlaif.pipeline.sweep import Sweep
    from morlaif.units.store import Store

    if len(jobs) > 1:
        raise UserError("sweep=claims runs what its claims need: give each key one value")
    console, config, command = Console(highlight=False), jobs[0].config, _command(sys.argv[1:])
    _check_places(jobs)
    if not config.dry_run:
        _check_submits(jobs)
    claimed = prepared(flags, jobs[0], _job, console)
    if config.dry_run:
        claimed.show(console)
        return SUCCESS
    runs = list(claimed.jobs.values())
    sweep = Sweep(config.paths.runs, [(job.overrides, job.run_name) for job in runs], command, "claims")
    os.environ[SWEEP_VARIABLE] = sweep.name
    try:
        launch(runs, jobs[0], flags.config_dir, _job, sweep.folder / "logs", console, sweep.labels())
    finally:
        sweep.close(console)
    tested = Gathered(claimed.known, claimed.runs, config.paths.runs, Store(config.paths.store))
    table = table_of(tested, claimed.untested, config.claims, config.hardware, console)
    lay_down(table, config.claims, sweep.folder, command, console)
    tell(config.tracking, table, sweep.folder, console)
    return {"": SUCCESS, "by mistake": USER_ERROR}.get(sweep.failed(), FAILURE)


def _check_submits(jobs: list[Composed]) -> None:
    """Jobs for Slurm are started where it can be asked."""
    import shutil

    if _elsewhere(jobs) and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm: there is no srun here. Start the sweep where jobs are submitted, "
            "or have them side by side on this machine: hydra/launcher=joblib"
        )


def _elsewhere(jobs: list[Composed]) -> bool:
    """Whether another machine is to run the jobs."""
    return "slurm" in jobs[0].launcher.lower()


def _compare(jobs: list[Composed]) -> int:
    """`stages=[compare]`: a page for the finished runs that `compare.runs` names."""
    from rich.console import Console

    from morlaif.pipeline.sweep import compare_runs

    if len(jobs) > 1:
        raise UserError("stages=[compare] is one job, not a sweep: name the runs in compare.runs")
    compare_runs(jobs[0].config, _command(sys.argv[1:]), Console(highlight=False))
    return SUCCESS


def _human(jobs: list[Composed]) -> int:
    """`human=export` and `human=import`: of each finished run that the command names."""
    from rich.console import Console

    from morlaif.pipeline.human import rate

    console = Console(highlight=False)
    for job in jobs:
        rate(job.config, job.run_name, console)
    return SUCCESS


def _steer(jobs: list[Composed]) -> int:
    """`morlaif steer`: what a policy that takes weights answers, at each of the weights that the command names."""
    from rich.console import Console

    from morlaif.pipeline.steer import answer

    for job in jobs:
        answer(job.config, Console(highlight=False))
    return SUCCESS


def _times(planned: Plan, store: Store, config: Config, console: Console) -> Times:
    """How long the plan's units take: by the preset's speed, or by this machine's, measured now."""
    from morlaif.pipeline.resources import machine_of
    from morlaif.pipeline.times import assumed, unit_efforts, unit_times

    machine = machine_of(config, planned)
    if config.dry_run != "probe" or machine is None:
        return unit_times(planned, store, config)
    from morlaif.pipeline.probe import measured
    from morlaif.texts import say

    say(console, "measuring how fast this machine is, some 20 seconds …")
    found = unit_efforts(planned, store, config, machine)
    rate, seconds = measured([one for _, efforts in found for one in efforts or ()], config, assumed(machine))
    source = f"from tokens at this machine's speed, measured in {seconds:.0f} s on random weights"
    return unit_times(planned, store, config, rate, source)


def _dry_run(jobs: list[Composed], waiting: int = 0) -> int:
    """`waiting`: how many runs more read a model that these make, and cannot be planned before."""
    from functools import partial

    from rich.console import Console

    from morlaif.pipeline.display import plan_table
    from morlaif.pipeline.preflight import Preflight
    from morlaif.pipeline.resources import resources
    from morlaif.pipeline.served import asked, judged, with_served
    from morlaif.planning.contents import Contents
    from morlaif.planning.plan import plan
    from morlaif.planning.settle import settled
    from morlaif.texts import say
    from morlaif.units.store import Store

    console, problems = Console(highlight=False), list[str]()
    preflight = Preflight(partial(say, console), elsewhere=_elsewhere(jobs))
    for job in jobs:
        problems += (found := preflight.problems(job.config))
        try:
            config = with_served(settled(job.config, partial(say, console)), partial(say, console), wait=False)
            contents = Contents(config.paths.store, partial(say, console))
            planned, store = plan(config, contents), Store(config.paths.store)
            store.check_place(planned.units)
        except UserError:
            if found:  # says it already
                continue
            raise
        say(console, (job.run_name, "bold"), f"  {' '.join(job.overrides)}")
        planned.check_batches(config.hardware.ranks)
        times = None
        with suppress(Exception) if found else nullcontext():  # a wrong model, reported below, has no speed
            times = _times(planned, store, config, console)
        console.print(plan_table(planned, store, times))
        if any(asked(config)) or judged(config):  # else no need to load what counts tokens
            from morlaif.pipeline.cost import cost_table, feedback_costs

            if costs := feedback_costs(planned, store, config):
                console.print()
                console.print(cost_table(costs))
        with suppress(Exception) if found else nullcontext():  # a wrong model, reported below, has no size
            if (needed := resources(planned, config)) is not None:
                console.print()
                console.print(needed)
    if problems:
        raise preflight.error(list(dict.fromkeys(problems)))
    if waiting:
        say(console, f"{waiting} runs that read this model are planned once it is made")
    return SUCCESS


if __name__ == "__main__":
    main()
