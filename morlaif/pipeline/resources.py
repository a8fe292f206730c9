"""What a plan takes of the machine, for `dry_run=true`: memory by stage and rank, whether it fits, what would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from morlaif.config import Config
from morlaif.devices import SLOWER, processor_lacks_bfloat16
from morlaif.errors import UserError
from morlaif.feedback.settings import HfSettings
from morlaif.memory.advice import advise
from morlaif.memory.dimensions import Dimensions, of_model, of_path, why_unknown
from morlaif.memory.estimate import StageMemory, fits, host_bytes, usable
from morlaif.memory.machine import Machine
from morlaif.models.place import folder_of
from morlaif.models.settings import NoSFT
from morlaif.pipeline.changes import apply
from morlaif.pipeline.display import plain_table
from morlaif.pipeline.timing import duration
from morlaif.planning.plan import plan as make_plan
from morlaif.preference.kinds import kind_of
from morlaif.preference.settings import PMSettings
from morlaif.stages.pm import PM
from morlaif.stages.scoring import ScoringReads
from morlaif.texts import Part, add_row, line
from morlaif.units.unit import Plan, Unit

COLUMNS = ("model", "grads", "adam", "lora", "activ", "cache", "gather")


def stage_memories(config: Config, plan: Plan) -> list[StageMemory]:
    """One for each stage of `plan` that holds a model here; none where the model's dimensions are unknown."""
    machine = machine_of(config, plan)
    if machine is None:
        return []
    different: dict[tuple[str, str], Unit] = {}
    for unit in plan.units:
        different.setdefault((unit.stage.name, repr(_models_of(unit))), unit)
    most: dict[str, StageMemory] = {}
    for (stage, _), unit in different.items():
        pm = _models_of(unit)
        memory = unit.stage.memory(unit, machine if pm is None else replace(machine, kind=kind_of(pm).footprint))
        if memory is not None and (stage not in most or memory.device > most[stage].device):
            most[stage] = memory
    return list(most.values())


def _models_of(unit: Unit) -> PMSettings | None:
    """Settings of the preference models that the unit trains, or scores with."""
    trains = unit.reads if hasattr(unit.reads, "pm") else next((need.reads for need in unit.of("pm")), None)
    found: PMSettings | None = getattr(trains, "pm", None)
    return found


def machine_of(config: Config, plan: Plan) -> Machine | None:
    """The machine with the models that the config's stages put onto it; None where their dimensions are unknown."""
    kind = kind_of(config.pm)
    policy = base = of_model(config.model)
    if kind.base is not None:
        base = of_path(kind.base.path, kind.base.revision)
    elif kind.existing:
        base = of_path(next(iter(kind.existing.values())).path) or policy
    if policy is None or base is None:
        return None
    arms = [unit for unit in plan.units if isinstance(unit.reads, ScoringReads)]
    models = max((sum(isinstance(need.stage, PM) for need in unit.needs) for unit in arms), default=0)
    return Machine(config.hardware, policy, base, kind.footprint, models, kind.on_policy, _mapped(config, plan, policy))


def _mapped(config: Config, plan: Plan, policy: Dimensions) -> float:
    """Bytes of the policy's file where a processor's weights are in another number format than it. The SFT model is
    written in that of the machine, and its file is its memory."""
    sft, path = plan.by_name.get("sft"), config.model.path
    tuned = sft is not None and not isinstance(sft.reads.sft, NoSFT)
    if path is None or tuned or config.hardware.device != "cpu" or config.hardware.dtype != "float32":
        return 0.0
    folder = folder_of(path, config.model.revision)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder is not None else 0
    size = size or 2 * policy.parameters  # as nearly all on the hub
    return 0.0 if size > 3 * policy.parameters else float(size)


def resources(plan: Plan, config: Config) -> RenderableType | None:
    """A row for each stage that holds a model on this machine, and a line for each thing that is not known or not
    advised; None where no stage holds one."""
    memories = stage_memories(config, plan)
    warnings = [line((one, "yellow")) for one in (*_unknown(config, plan), *_unadvised(config))]
    if not memories:
        return Group(*warnings) if warnings else None
    hardware = config.hardware
    divisor, unit = (1e9, "GB") if max(memory.device for memory in memories) >= 1e9 else (1e6, "MB")
    shown = [name for name in COLUMNS if any(memory.column(name) for memory in memories)]
    table = plain_table(unit, *shown, "total", "fits", "step", right=slice(1, None))
    table.padding = (0, 1)
    for memory in memories:
        cells = [_number(memory.column(name) / divisor) for name in shown]
        fit = ("yes", "green") if fits(memory, hardware) else ("no", "bold red")
        add_row(table, memory.stage, *cells, _number(memory.device / divisor), fit, duration(memory.seconds))
    tightest = max(memories, key=lambda memory: memory.device)
    advice = [
        part for memory in memories if not fits(memory, hardware) for part in (Text(), _advice(memory, config, plan))
    ]
    return Group(table, *_notes(memories, config), Text(), _formulas(tightest), *advice, *warnings)


def _unknown(config: Config, plan: Plan) -> Iterator[str]:
    """A line for each model of unknown dimensions."""
    stages = {unit.stage.name for unit in plan.units if unit.stage.loads_model}
    path = config.model.path
    if stages and path is not None and of_model(config.model) is None:
        yield f"memory and time are not known: {why_unknown(path, config.model.revision)}"
    for key, settings in _engines(config):
        if isinstance(settings, HfSettings) and settings.path and of_path(settings.path, settings.revision) is None:
            yield f"what {key} takes is not known: {why_unknown(settings.path, settings.revision)}"


def _engines(config: Config) -> list[tuple[str, object]]:
    """The judges of labels and of policies, by the keys of their settings."""
    return [("feedback", config.feedback), ("eval.judge.engine", getattr(config.eval.judge, "engine", None))]


def _unadvised(config: Config) -> Iterator[str]:
    """bfloat16 where the processor has none."""
    if not processor_lacks_bfloat16():
        return
    asked = [] if config.hardware.device != "cpu" else [("hardware.dtype", config.hardware.dtype)]
    for key, settings in _engines(config):
        if isinstance(settings, HfSettings) and settings.path and settings.device == "cpu":
            asked.append((f"{key}.dtype", settings.dtype))
    for key, dtype in asked:
        if dtype == "bfloat16":
            yield f"{key}=bfloat16: this processor emulates it at 1/{SLOWER} of the speed of float32, which is advised"


def _notes(memories: list[StageMemory], config: Config) -> Iterator[Text]:
    hardware, machine = config.hardware, config.hardware.machine
    ranks = f"what each of {hardware.ranks} ranks holds" if hardware.ranks > 1 else "what the process holds"
    where = "of memory for each process" if hardware.device == "cpu" else "a GPU"
    note = (
        f"({ranks}, against {machine.device_memory:g} GB {where}, {usable(hardware) / 1e9:.3g} of them for tensors; "
        f"activ and cache take turns; a step at {machine.mfu:.0%} of {machine.tflops:g} TFLOP/s)"
    )
    yield line((note, "dim"))
    for memory in memories:
        if memory.host is not None:
            size = host_bytes(memory, hardware) / 1e9
            over: list[Part] = [] if size <= machine.host_memory else [(", which does not fit", "bold red")]
            have = f"{size:,.0f} of {machine.host_memory:,g} GB of a node's host memory"
            yield line(f"{memory.stage} needs {have}", *over, f": {memory.host.formula}")


def _formulas(memory: StageMemory) -> Table:
    table = plain_table(memory.stage, "", "how it adds up", right=slice(1, 2))
    for item, phase in memory.items():
        if item.bytes:
            add_row(table, item.column, _size(item.bytes), item.formula + (f" ({phase})" if phase else ""))
    return table


def ways_to_fit(config: Config, plan: Plan, stage: str) -> list[list[str]]:
    """Overrides under which a stage fits; see `advise`."""

    def would(changes: Sequence[str]) -> bool:
        try:
            changed = apply(config, changes)
            memory = memory_of(changed, stage)
        except UserError:  # a combination that no run would accept
            return False
        return memory is None or fits(memory, changed.hardware)

    unit = next(unit for unit in plan.units if unit.stage.name == stage)
    return advise([*unit.stage.smaller(unit.reads)], [*unit.stage.simpler(unit.reads)], config.hardware, would)


def memory_of(config: Config, stage: str) -> StageMemory | None:
    found = stage_memories(config, make_plan(config))
    return next((one for one in found if one.stage == stage), None)


def _advice(memory: StageMemory, config: Config, plan: Plan) -> Text:
    ways = ways_to_fit(config, plan, memory.stage)
    fails = (f"{memory.stage} does not fit", "bold red")
    lacks = f": {_size(memory.device)} of {_size(usable(config.hardware))}"
    if not ways:
        return line(fails, f"{lacks}, and nothing tried here would make it fit: take a smaller model or more GPUs")
    listed = []
    for changes in ways:
        after = memory_of(apply(config, changes), memory.stage)
        listed.append(" ".join(changes) + (f" ({_size(after.device)})" if after is not None else ""))
    return line(fails, f"{lacks}; it would with {', or with '.join(listed)}")


def _number(value: float) -> str:
    return "·" if value < 0.05 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _size(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
