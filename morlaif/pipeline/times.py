"""How long the units of a plan take: from the machine's stated speed, or from a probe of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean

from morlaif.config import Config
from morlaif.data.load import first_examples
from morlaif.data.records import DATASET, load_split
from morlaif.data.settings import DataSettings, ToyData
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
LOOKED_AT = 64  # rows whose lengths are taken for all
LOADED = 5e8  # bytes of weights a second, read and converted: 2.5 GB took 4.9 s, 1.1 GB with its check 2.9
LETTERS, TURN = 4, 4  # of a token; tokens of a turn's form

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
        if one.op == "load":
            return one.dims.parameters * machine.layout.element / LOADED
        weights = one.dims.parameters * machine.layout.element / (m.bandwidth * 1e9)  # read anew for each token
        return max(one.operations / speed, one.new * weights)

    return seconds


def amounts(plan: Plan, store: Store, config: Config) -> Amounts:
    """What the data holds: counted where it is built, else as configured; lengths are those of its first rows, where
    they lie here, and assumed otherwise."""
    data = config.data
    unit = plan.by_name.get("data")
    built = store.folder(unit) if unit is not None and store.has(unit) else None
    prompt, response, prompts = _lengths(data, built)
    respond = config.respond
    sampled = min(response, respond.max_new_tokens) if isinstance(respond, SampleResponses) else response
    lengths = prompt, response, sampled, prompts
    if built is not None:
        train, held = (arrow_rows(built / DATASET / split) for split in ("train", "eval"))
        return Amounts(train + held, held, train, *lengths)
    if isinstance(data, ToyData):
        return Amounts(data.train + data.eval, data.eval, data.sft, *lengths)
    if data.limit is None:
        return Amounts(None, None, None, *lengths)
    held = data.eval_size if data.eval_size is not None else round(data.limit * (data.eval_fraction or 0.0))
    return Amounts(data.limit, min(held, data.limit), data.limit, *lengths)


def _lengths(data: DataSettings, built: Path | None) -> tuple[int, int, tuple[int, ...]]:
    """Tokens of a prompt and of a response on average, and of each of some prompts: four letters are one."""
    if isinstance(data, ToyData):
        return *TOY_TOKENS, ()
    rows = load_split(built, "train")[:LOOKED_AT] if built is not None else first_examples(data, LOOKED_AT)
    if not rows:
        return *ASSUMED_TOKENS[:2], ()
    prompts = tuple(sum(len(turn["content"]) // LETTERS + TURN for turn in row.messages) for row in rows)
    texts = [{row.chosen, row.rejected, row.demonstration} - {None, ""} for row in rows]
    answers = [len(text) // LETTERS for each in texts for text in each if text]
    response = round(mean(answers)) if answers else ASSUMED_TOKENS[1]
    return round(mean(prompts)), max(1, response), prompts
