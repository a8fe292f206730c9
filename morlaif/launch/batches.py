"""The batches of a plan's units over the ranks that build them."""

from __future__ import annotations

from collections.abc import Callable

from morlaif.batches import Cut, cut
from morlaif.hardware import HardwareSettings
from morlaif.units.unit import Plan, Unit


def unit_cut(unit: Unit, ranks: int) -> Cut:
    """The cut that the settings of `unit` mean over `ranks`; a stage that does not learn has a batch of one."""
    settings = unit.reads.get("pm" if unit.stage == "backbone" else unit.stage)
    match unit.stage:
        case "sft" if settings.method != "none":
            return cut(settings.batch_size, settings.micro_batch_size, ranks, key="sft")
        case "pm" | "backbone" if settings.kind != "pretrained":
            return cut(settings.batch_size, settings.micro_batch_size, ranks, key="pm")
        case "ppo":
            return Cut(settings.micro_batch_size, 1)  # the loop cuts its minibatches by length and steps by itself
    return Cut(1, 1)


def check_batches(plan: Plan, hardware: HardwareSettings, on_ranks: Callable[[Unit, HardwareSettings], bool]) -> None:
    """Say a batch that cannot be cut before anything is built; `on_ranks`: which units are.

    Raises:
        UserError: the first one.
    """
    for unit in plan.units:
        if on_ranks(unit, hardware):
            unit_cut(unit, hardware.ranks)
