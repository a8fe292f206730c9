"""How long the units of a plan take: from the machine's stated speed, or from a probe of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from morlaif.config import Config
from morlaif.data.records import DATASET
from morlaif.data.settings import ToyData
from morlaif.feedback.chunks import arrow_rows
from morlaif.feedback.estimate import ASSUMED_TOKENS
from morlaif.memory.effort import Amounts, Effort
from morlaif.memory.machine import Machine
from morlaif.models.settings import SampleResponses
from morlaif.pipeline.resources import machine_of
from morlaif.pipeline.timing import Times
from morlaif.units.store import Store
from morlaif.units.unit import Plan

TOY_TOKENS = (24, 40)  # of a prompt and a response of the toy world, on average


Rate = Callable[[Effort], float]  # seconds of one forward


def unit_times(plan: Plan, store: Store, config: Config, rate: Rate | None = None, source: str = "") -> Times:
    """For each unit that is to be built. rate: as measured; none: by the preset's speed."""
    machine = machine_of(config, plan)
    found: dict[str, float | None] = {}
    for unit, efforts in unit_efforts(plan, store, config, machine):
        if efforts is None or machine is None:
            found[unit] = None if efforts is None or machine is None else 0.0
        else:
            found[unit] = sum(one.times * (rate or assumed(machine))(one) for one in efforts)
    m = config.hardware.machine
    return Times(found, source or f"assumed: {m.mfu:.0%} of {m.tflops:g} TFLOP/s, as hardware.machine has it")


def unit_efforts(
    plan: Plan, store: Store, config: Config, machine: Machine | None
) -> Iterable[tuple[str, list[Effort] | None]]:
    data = amounts(plan, store, config)
    for unit in plan.units:
        if store.has(unit):
            continue
        if machine is None:
            yield unit.name, None if unit.stage.loads_model else []
            continue
        efforts = unit.stage.efforts(unit, machine, data)
        yield unit.name, None if efforts is None else list(efforts)


def assumed(machine: Machine) -> Rate:
    m = machine.hardware.machine
    speed = machine.layout.ranks * m.tflops * 1e12 * m.mfu

    def seconds(one: Effort) -> float:
        weights = one.dims.parameters * machine.layout.element / (m.bandwidth * 1e9)  # read anew for each token
        return max(one.operations / speed, one.new * weights)

    return seconds


def amounts(plan: Plan, store: Store, config: Config) -> Amounts:
    """What the data holds: counted where it is built, else as configured; lengths are assumed."""
    data = config.data
    toy = isinstance(data, ToyData)
    prompt, response = TOY_TOKENS if toy else ASSUMED_TOKENS[:2]
    respond = config.respond
    sampled = min(response, respond.max_new_tokens) if isinstance(respond, SampleResponses) else response
    unit = plan.by_name.get("data")
    if unit is not None and store.has(unit):
        train, held = (arrow_rows(store.folder(unit) / DATASET / split) for split in ("train", "eval"))
        return Amounts(train + held, held, train, prompt, response, sampled)
    if isinstance(data, ToyData):
        return Amounts(data.train + data.eval, data.eval, data.sft, prompt, response, sampled)
    if data.limit is None:
        return Amounts(None, None, None, prompt, response, sampled)
    held = data.eval_size if data.eval_size is not None else round(data.limit * (data.eval_fraction or 0.0))
    return Amounts(data.limit, min(held, data.limit), data.limit, prompt, response, sampled)
