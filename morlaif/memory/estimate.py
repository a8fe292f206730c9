"""How much memory each stage needs on each rank, and how long a step takes: arithmetic on a model's shape, no torch.

P parameters, A parameters of an adapter, n ranks, b bytes a number. What is there all the time is summed; of what takes
turns (cache while sampling, activations while learning) the larger counts. Sources of the formulas: ZeRO (1910.02054)
for what is divided by what; DeepSpeed's own estimator for host memory under offload; the tensors that autograd keeps,
counted on models of transformers, for activations. `benchmarks/memory_plan.py` holds them against measured peaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from morlaif.hardware import HardwareSettings
from morlaif.memory.dimensions import Dimensions
from morlaif.preference.scoring import tokens_at_once

GATHERED = 1_000_000_000  # parameters that ZeRO-3 may hold whole beside their parts (stage3_max_live_parameters)
SUB_GROUP = 1_000_000_000  # parameters that ZeRO-3 steps together (DeepSpeed's sub_group_size)
BUCKET = 50_000_000  # parameters in one exchange of gradients (reduce_bucket_size)
ADAM = 16  # bytes a trained parameter: float32 weight and gradient and two moments; or, over ranks with bfloat16,
#            weight and gradient of 2 bytes each, and 12 for the float32 original with its moments
HOST_FACTOR = 1.5  # DeepSpeed's allowance for buffers beside the offloaded 16 bytes
LOGITS = {"cpu": 2**24, "cuda": 2**27}  # logits that PPO holds at once (morlaif.rl.logprobs.CHUNK)
CHUNK = 2**25  # logits that TRL's loss makes at once, on a GPU (4096 tokens, some of the vocabulary)
RETURN = 1.5  # what one layer's backward takes beside what was kept, in units of that (measured, with the allocator)
CONTEXT = 1.0e9  # bytes that CUDA, its libraries and the allocator's gaps take on a GPU
PROCESS = 0.6e9  # bytes that Python and its libraries take of a machine without (measured once all are imported)


class Item(NamedTuple):
    column: str  # model, grads, adam, lora, activ, cache, gather
    bytes: float
    formula: str


class ForwardSize(NamedTuple):
    """A forward pass."""

    rows: int
    tokens: int  # of each row, padding included


@dataclass(frozen=True)
class Layout:
    """How tensors are cut over the ranks of a unit."""

    ranks: int
    stage: int  # of ZeRO; 0: one process
    element: int  # bytes of a number in the run's dtype
    offload_optimizer: bool
    offload_parameters: bool
    cuda: bool
    most_gathered: float  # bytes of a model in parts that each rank gathers whole to sample from

    @classmethod
    def of(cls, hardware: HardwareSettings) -> Layout:
        split = hardware.ranks > 1
        return cls(
            ranks=hardware.ranks if split else 1,
            stage=hardware.zero.stage if split else 0,
            element=4 if hardware.dtype == "float32" else 2,
            offload_optimizer=split and hardware.zero.offload_optimizer,
            offload_parameters=split and hardware.zero.offload_parameters,
            cuda=hardware.device != "cpu",
            most_gathered=hardware.zero.most_gathered,
        )

    def _over(self, least_stage: int) -> tuple[int, str]:
        return (self.ranks, f" / {self.ranks} ranks") if self.stage >= least_stage > 0 else (1, "")

    def frozen(self, dims: Dimensions, what: str = "model") -> list[Item]:
        """Weights that do not learn."""
        if self.offload_parameters:
            return [Item(what, 0.0, "weights on the host between their uses")]
        parts, text = self._over(3)
        size = dims.parameters * self.element / parts
        return [Item(what, size, f"{_count(dims.parameters)} × {self.element} B{text}")]

    def trained(self, dims: Dimensions) -> list[Item]:
        """A model that learns in full: weights, gradients, Adam."""
        p = dims.parameters
        if self.ranks == 1:
            items = [
                Item("model", 4 * p, f"{_count(p)} × 4 B (weights that learn stay in float32)"),
                Item("grads", 4 * p, f"{_count(p)} × 4 B"),
                Item("adam", 8 * p, f"{_count(p)} × 2 moments × 4 B"),
            ]
            if self.element < 4:
                items.append(Item("activ", self.element * p, f"{_count(p)} × {self.element} B, autocast's copies"))
            return items
        items = self.frozen(dims)
        parts, text = self._over(2)
        if self.offload_optimizer:
            return [*items, Item("adam", 0.0, "gradients and optimizer on the host")]
        return [
            *items,
            Item("grads", self.element * p / parts, f"{_count(p)} × {self.element} B{text}"),
            Item("adam", 12 * p / self.ranks, f"{_count(p)} × 12 B (float32 original, 2 moments) / {self.ranks} ranks"),
        ]

    def twin(self, dims: Dimensions) -> list[Item]:
        """A frozen copy of a model that learns in full. In one process that is in float32, but for matrices, which the
        copy keeps in the run's dtype (`morlaif.rl.policy`)."""
        if self.ranks > 1:
            return self.frozen(dims)
        embeddings = dims.vocabulary * dims.width
        head = embeddings if dims.parameters - dims.products >= 2 * embeddings else 0  # else tied, and in float32
        narrow = dims.products + head
        size = narrow * self.element + (dims.parameters - narrow) * 4
        text = f"{_count(narrow)} × {self.element} B + {_count(dims.parameters - narrow)} × 4 B"
        return [Item("model", size, text)]

    def adapters(self, parameters: int, learn: int, frozen: int = 0, whole: bool = False) -> list[Item]:
        """`learn` adapters of `parameters` each in training, `frozen` that only compute. `whole`: DeepSpeed does not
        know of them, each rank has all."""
        parts, text = (1, "") if whole else self._over(3)
        optimizer = 0 if self.offload_optimizer and not whole else ADAM
        size = parameters * (learn * optimizer + frozen * self.element) / parts
        each = []
        if learn:
            each.append(f"{learn} × {_count(parameters)} × {optimizer} B")
        if frozen:
            each.append(f"{frozen} × {_count(parameters)} × {self.element} B")
        return [Item("lora", size, f"({' + '.join(each)}){text}")] if each else []

    def stepping(self, learning: int) -> list[Item]:
        """The float32 gradients that DeepSpeed makes for an update, of one sub-group at a time under stage 3."""
        if self.stage < 2 or self.offload_optimizer:
            return []
        size = learning / self.ranks if self.stage == 2 else min(learning / self.ranks, SUB_GROUP)
        return [Item("activ", 4 * size, f"{_count(size)} × 4 B, an update's gradients in float32")]

    def host(self, learning: int) -> Item | None:
        """Bytes of host memory on all nodes together, for `learning` parameters with offload."""
        if not (self.offload_optimizer or self.offload_parameters) or not learning:
            return None
        return Item("host", learning * ADAM * HOST_FACTOR, f"{_count(learning)} × {ADAM} B × {HOST_FACTOR}")

    def gathers(self, dims: Dimensions, learns: bool) -> list[Item]:
        """What ZeRO-3 holds whole for a moment: the largest layer with its gradient, layers ahead, a bucket."""
        if self.stage < 2:
            return []
        bucket = min(BUCKET, dims.parameters) * self.element if learns else 0.0
        if self.stage == 2:
            return [Item("gather", bucket, f"a bucket of {_count(BUCKET)} gradients × {self.element} B")]
        live = min(GATHERED, dims.parameters)
        size = 2 * self.element * dims.largest + self.element * live + bucket
        b = self.element
        text = f"largest layer {_count(dims.largest)} × 2 × {b} B + {_count(live)} gathered × {b} B"
        return [Item("gather", size, text + (" + a bucket" if learns else ""))]

    def activations(
        self,
        dims: Dimensions,
        batch: ForwardSize,
        checkpointing: bool,
        logits: bool,
        lora: tuple[int, float] | None = None,
        stacked: int = 0,
    ) -> list[Item]:
        """What a forward keeps for its backward. `lora`: rank and dropout of adapters in the path, `stacked` of them on
        one frozen base (`morlaif.preference.lora`; 0: peft's)."""  # fmt: skip
        tokens = batch.rows * batch.tokens
        numbers, norms = _kept(dims, lora, stacked)
        block = numbers * self.element + norms * (4 - self.element)  # norms compute in float32
        carried = dims.width * self.element
        kept = carried if checkpointing else block
        again = RETURN + 1 if checkpointing else RETURN  # of the layer that is on its way back, and made anew before
        each = dims.layers * kept + again * block
        how = f"{dims.layers} layers × {_bytes(kept)} + {again:g} × {_bytes(block)}"
        items = [Item("activ", tokens * each, f"{batch.rows} × {batch.tokens} tokens × ({how})")]
        if logits and self.cuda:
            size = min(tokens * dims.vocabulary, CHUNK)
            items.append(Item("activ", size * 12.0, f"{size / 1e6:.3g} M logits at once × 12 B"))
        elif logits:
            size = 12 if self.element == 4 else 14
            items.append(
                Item("activ", tokens * dims.vocabulary * size, f"{tokens:,} × {dims.vocabulary:,} logits × {size} B")
            )
        return items

    def gathers_to_sample(self, dims: Dimensions) -> bool:
        """Whether each rank holds all weights while it samples, rather than one module at a time."""
        return self.stage == 3 and dims.parameters * self.element <= self.most_gathered

    def cache(self, dims: Dimensions, batch: ForwardSize) -> list[Item]:
        """Keys and values while sampling, the distribution over the next token, and weights gathered for it."""
        kept = dims.cached(batch.tokens) * self.element
        size, text = dims.parameters * self.element, f"{_count(dims.parameters)} × {self.element} B, gathered whole"
        return [
            *([Item("gather", size, text)] if self.gathers_to_sample(dims) else []),
            Item("cache", batch.rows * kept, f"{batch.rows} × {_bytes(kept)} of {batch.tokens} tokens"),
            Item(
                "cache", batch.rows * dims.vocabulary * 24, f"{batch.rows} × {dims.vocabulary:,} probabilities × 24 B"
            ),
        ]

    def scoring(self, dims: Dimensions, longest: int) -> list[Item]:
        """A forward without gradient: the widest layer's numbers of a bucket."""
        tokens = max(longest, tokens_at_once(self.cuda, dims.widest))
        width = 6 * dims.width + 3 * dims.widest
        size = tokens * width * self.element
        return [Item("activ", size, f"{tokens:,} tokens scored at once × {width:,} × {self.element} B")]


@dataclass(frozen=True)
class StageMemory:
    """One rank's device while a stage runs."""

    stage: str
    ranks: int
    always: tuple[Item, ...]
    turns: tuple[tuple[str, tuple[Item, ...]], ...]  # what is there in turn: name of the phase, its items
    host: Item | None  # on all nodes together
    seconds: float | None  # of one step
    step: str  # what a step is

    @property
    def device(self) -> float:
        return sum(item.bytes for item in self.always) + max((_sum(items) for _, items in self.turns), default=0.0)

    def column(self, name: str) -> float:
        """Bytes of a column: of what takes turns, the turn that has most of it."""
        turns = [_sum(i for i in items if i.column == name) for _, items in self.turns]
        return _sum(item for item in self.always if item.column == name) + max(turns, default=0.0)

    def items(self) -> list[tuple[Item, str]]:
        """All items, with the phase of those that take turns."""
        return [(item, "") for item in self.always] + [
            (item, phase) for phase, items in self.turns for item in items
        ]  # fmt: skip


def fits(memory: StageMemory, hardware: HardwareSettings) -> bool:
    return memory.device <= usable(hardware) and host_bytes(memory, hardware) <= hardware.machine.host_memory * 1e9


def usable(hardware: HardwareSettings) -> float:
    """Bytes of a device that tensors may take."""
    return hardware.machine.device_memory * 1e9 - (CONTEXT if hardware.device != "cpu" else PROCESS)


def host_bytes(memory: StageMemory, hardware: HardwareSettings) -> float:
    """Of one node."""
    return memory.host.bytes / hardware.nodes if memory.host else 0.0


def _kept(dims: Dimensions, lora: tuple[int, float] | None, stacked: int) -> tuple[float, float]:
    """Numbers that autograd keeps of one token in one block, and how many of them belong to norms."""
    if lora is None:
        return dims.kept, dims.kept_single
    rank, dropout = lora
    numbers = dims.frozen + 2 * rank * dims.linears / dims.layers
    inputs = dims.inputs / dims.layers
    if dropout and stacked:  # each input after dropout in place of the base's own, and one mask for all adapters
        numbers += inputs * (1 + 1 / stacked)
    else:  # each input once; and for peft's dropout once more, with its mask
        numbers += dims.read + (2 * inputs if dropout else 0)
    return numbers, dims.frozen_single


def _sum(items: Iterable[Item]) -> float:
    return sum(item.bytes for item in items)


def _count(number: float) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {name}"
    return f"{number:.0f}"


def _bytes(number: float) -> str:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f} B"
