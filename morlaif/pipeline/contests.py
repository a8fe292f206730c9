"""Have policies of finished runs judged against one another on the prompts that both have answered, or recall it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from morlaif.errors import Damaged, MachineError, UserError
from morlaif.evaluation.settings import JudgeSettings
from morlaif.files import read_json
from morlaif.hardware import HardwareSettings
from morlaif.pipeline.compare import RunFolder, build_of_runs, costs
from morlaif.stages.contests import OUTCOMES, STAGE, ContestsReads, Entrant
from morlaif.units.store import Store
from morlaif.units.unit import Unit

Pair = tuple[Entrant, Entrant]
Outcomes = Mapping[str, float | None]  # of the first, by prompt: win 1, tie ½, loss 0, None without a verdict


def entrant(run: RunFolder, policy: str) -> Entrant:
    """
    Raises:
        UserError: the run evaluated no policy.
    """
    if "evaluate" not in run.units:
        raise UserError(f"{run.folder.name} evaluates no policy; it needs stages=[evaluate]")
    return f"evaluate/{run.units['evaluate']}", policy


def judged(
    pairs: Sequence[Pair],
    runs: Sequence[RunFolder],
    store: Store,
    hardware: HardwareSettings,
    console: Console,
    *,
    spend: bool,
) -> dict[Pair, Outcomes]:
    """The outcomes of each pair, by the judge that the runs share; `runs` have the units of all pairs.

    Args:
        spend: ask a judge that costs money too; what it has been asked before is recalled for nothing.

    Raises:
        UserError: they have several judges, or one that costs money. MachineError: the judge failed.
    """
    different = list(dict.fromkeys(pairs))
    if not different:
        return {}
    unit = _unit(different, runs)
    if not spend and costs(unit.reads.judge) and not store.has(unit):
        raise UserError("the judge of these runs costs money; compare.spend=true asks it")
    build_of_runs(unit, runs, store, hardware, console)
    found = read_json(store.folder(unit) / OUTCOMES, "outcomes of contests", of=list, failure=Damaged)
    return dict(zip(different, found, strict=True))


def _unit(pairs: Sequence[Pair], runs: Sequence[RunFolder]) -> Unit:
    judges = [run.config["eval"]["judge"] for run in runs]
    if any(one != judges[0] for one in judges):
        raise UserError("the runs have several judges (eval.judge): give one, for one standard")
    try:
        settings = TypeAdapter[Any](JudgeSettings).validate_python(judges[0])
    except ValidationError:
        raise MachineError("the judge of these runs is not known to this version") from None
    first = runs[0]
    units = {name: first.units[name] for name in ("pm/gold", "sft") if settings.source == "pm"}
    return Unit(
        STAGE, STAGE.name, ContestsReads(contests=pairs, judge=settings, units=units, seed=first.config["seed"])
    )
