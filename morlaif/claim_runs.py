"""From `sweep=claims` to the runs that its claims need: composed, validated, each once, and launched."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from morlaif.claims import cells as needed
from morlaif.claims.cells import Cell
from morlaif.claims.spec import Known, find_claims
from morlaif.claims.table import in_words
from morlaif.compose import CONFIG_NAME, Composed, composing, plain, run_job, run_name, run_sweep
from morlaif.config import validate
from morlaif.data.settings import ToyData
from morlaif.errors import UserError
from morlaif.mistakes import explain
from morlaif.pipeline.preflight import Preflight
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.side_by_side import Task, run_side_by_side
from morlaif.texts import say
from morlaif.units.store import Store
from morlaif.units.unit import Unit
from morlaif.worlds import strangers

if TYPE_CHECKING:
    from rich.console import Console

    from morlaif.claims.settings import ClaimsSettings


@dataclass
class Claimed:
    """The claims of a command, and their runs."""

    known: list[Known]
    base: Composed  # the command's own config, which says where things lie
    given: list[str]  # overrides of every run
    jobs: dict[str, Composed] = field(default_factory=dict)  # by the name of the run
    runs: dict[Cell, str] = field(default_factory=dict)  # the name of the run of each cell
    untested: dict[str, str] = field(default_factory=dict)  # claims that cannot be tested so, and why

    @property
    def settings(self) -> ClaimsSettings:
        return self.base.config.claims

    @property
    def by_name(self) -> bool:
        """Whether the command names its claims: then one that cannot be tested is a mistake."""
        return self.settings.select != "all"

    def first_seed(self, run: str) -> int:
        """The least seed of a run: one seed is finished before the next begins."""
        return min(cell.seed for cell, own in self.runs.items() if own == run)

    def leave_out(self, known: Known, why: str) -> None:
        """
        Raises:
            UserError: the command names the claim.
        """
        if self.by_name:
            raise UserError("\n".join(f"claim {known.name}: {line}" for line in why.splitlines()))
        self.untested[known.name] = why.splitlines()[0]
        self.runs = {cell: run for cell, run in self.runs.items() if cell.claim != known.name}
        self.jobs = {run: job for run, job in self.jobs.items() if run in {*self.runs.values()}}

    def show(self, console: Console) -> None:
        """What would run, claim by claim."""
        from collections import Counter

        from morlaif.pipeline.display import plain_table
        from morlaif.texts import add_row

        store = Store(self.base.config.paths.store)
        table = plain_table("claim", "arms", "runs", "claimed", right=slice(1, 3))
        for known in self.known:
            runs = {run for cell, run in self.runs.items() if cell.claim == known.name}
            about = self.untested.get(known.name) or in_words(known.claim.test)
            add_row(table, known.name, str(len(known.claim.every_arm)), str(len(runs)), about)
        console.print(table)
        contents = Contents(self.base.config.paths.store)
        units, waiting = dict[str, Unit](), 0
        for job in self.jobs.values():
            try:
                units |= {unit.digest: unit for unit in plan(job.config, contents).units}
            except UserError:  # it reads a model that is not made yet
                waiting += 1
        left = Counter(unit.stage.name for unit in units.values() if not store.has(unit))
        counts = ", ".join(f"{count} {stage}" for stage, count in left.items()) or "none"
        more = f", and those of {waiting} runs whose model is made first" if waiting else ""
        say(console, f"{len(self.jobs)} runs with {len(units)} units, each built once; to build: {counts}{more}")


def prepared(flags: Namespace, base: Composed, task: Task, console: Console) -> Claimed:
    """The claims of a command with their runs; models that arms name are made first.

    Raises:
        UserError: a claim's file is wrong, or no claim can be tested.
    """
    made = claimed(flags, base)
    models = dict(made.settings.models)
    for name, job in makers(made, flags.config_dir).items():
        unit = plan(job.config, Contents(job.config.paths.store)).by_name["sft"]
        folder = Store(job.config.paths.store).folder(unit)
        models[name] = str(folder / "model")
        if not made.base.config.dry_run and not folder.is_dir():
            say(console, f"the model '{name}' of a claim is made first")
            run_job(job, flags.config_dir, task)
    compose_runs(made, models, flags.config_dir)
    if not made.base.config.dry_run:
        _check(made)
    for name, why in made.untested.items():
        say(console, (name, "bold"), f" is not tested: {why}")
    if not made.jobs:
        raise UserError("no claim can be tested so")
    made.jobs = dict(sorted(made.jobs.items(), key=lambda item: made.first_seed(item[0])))
    return made


def _check(made: Claimed) -> None:
    """Leave out claims that something would stop, known before anything is built.

    Raises:
        UserError: that is so of all claims. MachineError: the same, where the user has made no mistake.
    """
    preflight = Preflight(elsewhere="slurm" in made.base.launcher.lower())
    problems = {run: preflight.problems(job.config) for run, job in made.jobs.items() if made.first_seed(run) == 0}
    stopped = {cell.claim: problems[run] for cell, run in made.runs.items() if problems.get(run)}
    if stopped and len(stopped) == len({cell.claim for cell in made.runs}):
        raise preflight.error(list(dict.fromkeys(line for lines in stopped.values() for line in lines)))
    for known in made.known:
        if known.name in stopped:
            made.leave_out(known, "\n".join(stopped[known.name]))


def claimed(flags: Namespace, base: Composed) -> Claimed:
    """The claims that a composed command selects; their runs are still to be composed.

    Raises:
        UserError: a claim's file is wrong, or the command sweeps something else too.
    """
    given, settings = needed.words_of_runs(flags.overrides), base.config.claims
    if isinstance(base.config.data, ToyData):
        given = [*settings.toy, *given]
    return Claimed(find_claims(settings.select or "all", flags.config_dir), base, given)


def makers(made: Claimed, config_dir: str | None) -> dict[str, Composed]:
    """The runs that make models which arms name, by the model's name.

    Raises:
        UserError: as `Claimed.leave_out`.
    """
    found: dict[str, Composed] = {}
    with _leaving_out(made, config_dir) as tried:
        for known in made.known:
            with tried(known):
                for name, words in needed.makers(known, made.given, made.settings.models):
                    try:
                        found[name] = _composed(words)
                    except UserError:  # the claim's own model is of another world
                        raise UserError(f"needs claims.models.{name}=<folder or hub id>") from None
    return found


def compose_runs(made: Claimed, models: Mapping[str, str], config_dir: str | None) -> None:
    """Compose the runs of all claims that can be tested; `models` lie in these folders.

    Raises:
        UserError: as `Claimed.leave_out`.
    """
    trees: dict[tuple[str, ...], Composed] = {}  # without seeds: they change values, and choose no preset
    with _leaving_out(made, config_dir) as tried:
        for known in made.known:
            if known.name in made.untested:
                continue
            with tried(known):
                for cell in needed.cells(known, made.settings, made.given, models):
                    seeds = cell.words[-len(made.settings.vary) :]
                    words = cell.words[: -len(seeds)]
                    if words not in trees:
                        trees[words] = _composed(words)
                    job = _at(trees[words], cell.words, seeds)
                    made.runs[cell] = job.run_name
                    made.jobs.setdefault(job.run_name, job)


@contextmanager
def _leaving_out(made: Claimed, config_dir: str | None) -> Iterator[Callable[[Known], AbstractContextManager[None]]]:
    """Composing, with claims left out whose arms do not compose or validate: `with tried(claim): …`."""
    from hydra.errors import HydraException

    wrong: list[tuple[Known, Exception]] = []

    @contextmanager
    def tried(known: Known) -> Iterator[None]:
        try:
            yield
        except (UserError, HydraException, OmegaConfBaseException) as error:
            wrong.append((known, error))

    with composing(config_dir):
        yield tried
    for known, error in wrong:  # what explains an error of Hydra's composes too
        words = [*made.given, *(word for own in known.claim.every_arm.values() for word in own)]
        why = str(error) if isinstance(error, UserError) else explain(error, list(dict.fromkeys(words)), config_dir)
        made.leave_out(known, why)


def _composed(words: Sequence[str]) -> Composed:
    """
    Raises:
        UserError: it does not validate. HydraException: it does not compose.
    """
    from hydra import compose

    tree = compose(CONFIG_NAME, list(words), return_hydra_config=True)
    job = _job(list(words), tree)
    if lines := list(strangers(job.config, tree.hydra.runtime.choices)):
        raise UserError("\n".join(lines))
    return job


def _job(words: list[str], tree: DictConfig) -> Composed:
    config = validate(plain(tree))
    return Composed(words, config, run_name(tree), str(tree.hydra.launcher.get("_target_")), tree)


def _at(job: Composed, words: Sequence[str], seeds: Sequence[str]) -> Composed:
    """The same run with seeds of its own, without composing it anew."""
    tree = copy.deepcopy(job.tree)
    for word in seeds:
        key, _, value = word.partition("=")
        if OmegaConf.select(tree, key, default=needed) is needed:
            raise UserError(f"claims.vary: there is no key '{key}'; a seed sets keys such as arms.seed")
        OmegaConf.update(tree, key, int(value), merge=True)
    with open_dict(tree):
        tree.hydra.overrides.task = list(words)
    return _job(list(words), tree)


def launch(
    jobs: Sequence[Composed], base: Composed, config_dir: str | None, task: Task, logs: Path, console: Console,
    labels: Sequence[str],
) -> None:  # fmt: skip
    """Run `jobs` side by side on a CPU of several workers, else one after another, or by the launcher that the command
    names.

    Hydra's sweeper can only run every combination; and its own launcher would compose each job anew, at a second each.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    if not base.launcher or base.launcher.endswith(".BasicLauncher"):
        hardware = base.config.hardware
        count = min(hardware.workers, len(jobs)) if hardware.device == "cpu" and hardware.ranks == 1 else 1
        if count > 1:
            run_side_by_side(jobs, count, config_dir, task, logs, console, labels)
            return
        run_sweep(jobs, config_dir, task)
        return
    with composing(config_dir):
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(base.tree))
        launcher = Plugins.instance().instantiate_launcher(context, task, base.tree)
        launcher.launch([job.overrides for job in jobs], initial_job_idx=0)
