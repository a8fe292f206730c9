"""Stage `pm`: one preference model, trained on the verdicts of one principle, or several of them in one pass.

Kinds whose network is shared are trained by stage `backbone`; here each principle gets its own view of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from morlaif.batches import Microbatches, microbatches
from morlaif.feedback.settings import Principle
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, Op, loaded, scored
from morlaif.memory.estimate import ForwardSize, Item, StageMemory, usable
from morlaif.memory.machine import FORWARD, Machine, operations
from morlaif.preference.kind import Footprint
from morlaif.preference.kinds import kind_of
from morlaif.preference.scoring import JOINT_TOKENS
from morlaif.preference.settings import PMSettings
from morlaif.stages.places import Places
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage, Unit

SPARE = 0.8  # of a device's memory, where the number of models at once is ours to choose


@dataclass(frozen=True, kw_only=True)
class PMReads(Reads):
    pm: PMSettings
    split: str  # of the pairs that it learns from: train, or eval for the judge of last resort
    places: Places
    principle: Principle | None  # none where no single principle is judged by
    weights: str | None = None  # which tells the weights of a reward model that exists already from others


@dataclass(frozen=True)
class PMNeeds:
    respond: Path
    sft: Path | None
    feedback: Mapping[str, Path]  # of its own principle
    backbone: Path | None


PMJob = Job[PMReads, PMNeeds]


class PM(Stage[PMReads, PMNeeds]):
    name = "pm"
    version = 4
    reads = PMReads
    needs = PMNeeds
    work = "morlaif.stages.work.pm"
    artifact = "preference-model"
    loads_model = True
    paired = True

    def on_ranks(self, reads: PMReads) -> bool:
        return kind_of(reads.pm).on_ranks

    def microbatches(self, reads: PMReads, ranks: int) -> Microbatches:
        return batch_of(reads.pm, ranks)

    def clips(self, reads: PMReads) -> float:
        return clip_of(reads.pm)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        kind = kind_of(unit.reads.pm)
        return (
            None if kind.shared or not kind.trains else training(unit, machine)
        )  # nothing, or a view of what is there

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> list[Effort] | None:
        kind = kind_of(unit.reads.pm)
        return [] if kind.shared or not kind.trains else training_efforts(unit, machine, data)

    def smaller(self, reads: PMReads) -> Iterator[str]:
        return smaller_training(reads.pm)

    def simpler(self, reads: PMReads) -> Iterator[str]:
        return simpler_training(reads.pm)


# --- What stage `backbone` has in common with it ---------------------------------------------------------------------


def batch_of(settings: PMSettings, ranks: int) -> Microbatches:
    batch = kind_of(settings).batch
    return Microbatches(1, 1) if batch is None else microbatches(batch.size, batch.micro, ranks, key="pm")


def clip_of(settings: PMSettings) -> float:
    norm: float = getattr(settings, "max_grad_norm", 0.0)
    return norm


def training(unit: Unit, machine: Machine) -> StageMemory | None:
    """Of one preference model, or of those that learn in one pass."""
    held, batch, layout = machine.kind, kind_of(unit.reads.pm).batch, machine.layout
    if held is None or batch is None:
        return None
    rows = _rows(unit.reads.pm, held, layout.ranks)
    members = _members(held, machine.models)
    together = joint_at_once(unit.reads.pm, machine, members)
    always = _always(held, machine, members)
    if held.cache_gb:
        always.append(Item("cache", _kept_states(unit, held, machine), "states below the top, at most cache_gb"))
    lora, checkpointing = held.lora, held.gradient_checkpointing
    learning = 0 if lora else members * machine.base.parameters  # DeepSpeed knows nothing of adapters
    tokens = 2 * batch.size * (held.max_length + held.behind)
    factor = (1 - held.top) * FORWARD + held.top * together * operations(lora is not None, checkpointing)
    turns = {
        "learning": _work(held, machine, rows, together),
        "testing": layout.scoring(machine.base, held.max_length),
    }
    seconds = machine.compute(machine.base, tokens, factor)
    return machine.stage(unit.stage.name, always, turns, learning, seconds, f"of {batch.size} pairs")


def joint_at_once(settings: PMSettings, machine: Machine, members: int) -> int:
    """How many of `members` models go through one training forward: by `joint_tokens`, or as many as fit."""
    held = machine.kind
    if held is None or held.joint == 1:
        return members
    rows = _rows(settings, held, machine.layout.ranks)
    most = (held.joint_tokens or JOINT_TOKENS) // (rows.rows * rows.tokens)
    most = max(held.at_least, min(members, most))
    if held.joint_tokens is not None:
        return most
    rest = sum(item.bytes for item in _always(held, machine, members)) + 1e9 * held.cache_gb
    room = SPARE * usable(machine.hardware) - rest
    while most > held.at_least and sum(item.bytes for item in _work(held, machine, rows, most)) > room:
        most -= 1
    return most


def _always(held: Footprint, machine: Machine, members: int) -> list[Item]:
    """Weights, gradients and optimizer of `members` models in training."""
    layout, lora = machine.layout, held.lora
    if lora is None:
        always = layout.trained(machine.base)
    else:
        adapters = layout.adapters(machine.adapter(lora), learn=members, whole=True)
        always = layout.frozen(machine.base) + adapters
    return [*always, *layout.gathers(machine.base, learns=lora is None)]


def _work(held: Footprint, machine: Machine, rows: ForwardSize, together: int) -> list[Item]:
    """What a forward of `together` models keeps for its backward."""
    top = replace(machine.base, layers=max(1, round(held.top * machine.base.layers)))  # what keeps numbers to go back
    share = top.layers / machine.base.layers
    top = replace(top, linears=round(share * top.linears), inputs=round(share * top.inputs))
    lora = (held.lora.r, held.lora.dropout) if held.lora else None
    return machine.layout.activations(
        top, rows._replace(rows=rows.rows * together), held.gradient_checkpointing, logits=False, lora=lora,
        stacked=together,
    )  # fmt: skip


def _rows(settings: PMSettings, held: Footprint, ranks: int) -> ForwardSize:
    """A forward of one model: both responses of each pair."""
    return ForwardSize(2 * batch_of(settings, ranks).micro, held.max_length + held.behind)


def training_efforts(unit: Unit, machine: Machine, data: Amounts) -> list[Effort] | None:
    """Of one preference model, whether it learns by itself or beside others."""
    held, settings = machine.kind, unit.reads.pm
    batch = kind_of(settings).batch
    if held is None or batch is None or data.examples is None or data.held_out is None:
        return None
    micro = batch_of(settings, machine.layout.ranks).micro
    length = data.padded(1, held.max_length, data.sampled) + held.behind  # batches are of like lengths
    pairs = (data.examples - data.held_out) * getattr(settings, "epochs", 1) * held.members
    rows = max(1, min(2 * micro, 2 * pairs))
    op: Op = "learn" if held.lora is None else "adapt"
    dropout = held.lora.dropout if held.lora else 0.0
    return [
        loaded("base", machine.base, 1 / _members(held, machine.models) if held.lora else 2),  # once for all; written
        Effort(op, "base", machine.base, rows, length, 2 * pairs / rows, dropout=dropout),
        *scored(machine.base, 2 * data.held_out, held.members, data, held.max_length),
    ]


def smaller_training(settings: PMSettings) -> Iterator[str]:
    kind = kind_of(settings)
    if kind.batch is None:
        return
    if kind.footprint is not None and not kind.footprint.gradient_checkpointing:
        yield "pm.gradient_checkpointing=true"
    yield from halves("pm.micro_batch_size", kind.batch.micro or kind.batch.size)
    if kind.joint > 1:
        if kind.footprint is not None and kind.footprint.joint_tokens is not None:
            yield "pm.joint_tokens=null"
        yield "pm.joint=1"


def simpler_training(settings: PMSettings) -> Iterator[str]:
    kind = kind_of(settings)
    if kind.footprint is not None and kind.footprint.lora is None:
        yield "pm=lora"


def _members(held: Footprint, models: int) -> int:
    """Members that learn in one unit: an ensemble's, a worker's part of the principles."""
    return held.members if held.joint == 1 else held.members * min(max(1, models), held.joint)


def _kept_states(unit: Unit, held: Footprint, machine: Machine) -> float:
    """Bytes of the states below the top layers of all training pairs, where their number is known."""
    most = held.cache_gb * 1e9
    data: Any = unit.of("respond")[0].of("data")[0].reads.data
    pairs = getattr(data, "train", None) or getattr(data, "limit", None)
    size = machine.base.width * machine.layout.element * 2 * held.max_length
    return most if not isinstance(pairs, int) or pairs * size > most else pairs * size


STAGE = PM()
