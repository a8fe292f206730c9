"""What each stage of a config needs, from its settings and the model's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from morlaif.config import Config
from morlaif.hardware import HardwareSettings
from morlaif.launch.batches import unit_cut
from morlaif.launch.launcher import ON_RANKS
from morlaif.memory.dimensions import Shape, of_model, of_path
from morlaif.memory.estimate import LOGITS, Item, Layout, Rows, StageMemory
from morlaif.preference.settings import SHARED
from morlaif.units.unit import Plan, Unit

UNKNOWN_PROMPT = 512  # tokens, where the settings leave the prompt's length to the model
BLOCKS = ("llama", "qwen2")  # models whose last layer leaves out what nobody reads (morlaif.models.tail)
FORWARD, BACKWARD_LORA, BACKWARD = 2, 2, 4  # operations a parameter and token; frozen weights need no gradient


@dataclass(frozen=True)
class Needs:
    """One config's models and machine."""

    config: Config
    shape: Shape  # of the policy
    base: Shape  # of the preference models
    models: int  # preference models of the largest arm

    @property
    def hardware(self) -> HardwareSettings:
        return self.config.hardware

    @property
    def layout(self) -> Layout:
        return Layout.of(self.hardware)

    def sft(self, unit: Unit) -> StageMemory | None:
        s = self.config.sft
        if s.method == "none":
            return None
        rows = Rows(unit_cut(unit, self.layout.ranks).micro, s.max_length)
        lora = s.lora if s.method == "lora" else None
        always, learning = self._learner(self.shape, lora)
        adapter = (lora.r, lora.dropout) if lora else None
        work = self.layout.activations(self.shape, rows, s.gradient_checkpointing, logits=True, lora=adapter)
        always += self.layout.gathers(self.shape, learns=True)
        seconds = self._compute(self.shape, s.batch_size * s.max_length, _factor(lora, s.gradient_checkpointing))
        return self._stage("sft", always, {"learning": work}, learning, seconds, f"of {s.batch_size} rows")

    def pm(self, unit: Unit) -> StageMemory | None:
        """One preference model, or those that are trained in one pass; with a shared network, its `backbone`."""
        s, layout = self.config.pm, self.layout
        if s.kind == "pretrained" or (s.kind in SHARED and unit.stage == "pm"):  # nothing, or a head on what is there
            return None
        lora = getattr(s, "lora", None)
        share = getattr(s, "top", 1.0)
        rows = Rows(2 * unit_cut(unit, layout.ranks).micro, s.max_length)
        members, together = self._members(rows)
        learning = members * (self._adapter() if lora else self.base.parameters)
        if lora is None:
            always = layout.trained(self.base)
        else:
            always = layout.frozen(self.base) + layout.adapters(self._adapter(), learn=members, whole=True)
        top = replace(self.base, layers=max(1, round(share * self.base.layers)))  # what keeps numbers for a backward
        work = layout.activations(
            top, rows._replace(rows=rows.rows * together), s.gradient_checkpointing, logits=False,
            lora=(lora.r, lora.dropout) if lora else None, stacked=together,
        )  # fmt: skip
        if getattr(s, "cache_gb", 0):
            always.append(Item("cache", self._kept_states(s.cache_gb * 1e9), "states below the top, at most cache_gb"))
        always += layout.gathers(self.base, learns=lora is None)
        tokens = 2 * s.batch_size * s.max_length
        factor = (1 - share) * FORWARD + share * together * _factor(lora, s.gradient_checkpointing)
        turns = {"learning": work, "testing": layout.scoring(self.base, s.max_length)}
        seconds = self._compute(self.base, tokens, factor)
        return self._stage(unit.stage, always, turns, 0 if lora else learning, seconds, f"of {s.batch_size} pairs")

    def _members(self, rows: Rows) -> tuple[int, int]:
        """Members that learn in one unit: an ensemble's, a worker's part of the principles; and of them at once."""
        s = self.config.pm
        members = getattr(s, "members", 1)
        if getattr(s, "joint", 1) == 1:
            return members, members
        share = min(max(1, self.models), s.joint)
        return members * share, min(members * share, max(1, s.joint_tokens // (rows.rows * rows.tokens)))

    def _adapter(self) -> int:
        """Parameters of one preference model's adapter: in all layers, or in the top ones."""
        s = self.config.pm
        layers = max(1, round(getattr(s, "top", 1.0) * self.base.layers))
        return self.base.lora(s.lora.r) * layers // self.base.layers

    def _kept_states(self, most: float) -> float:
        """Bytes of the states below the top layers of all training pairs, where their number is known."""
        data = self.config.data
        pairs = getattr(data, "train", None) or getattr(data, "limit", None)
        size = self.base.width * self.layout.element * 2 * self.config.pm.max_length
        return most if not isinstance(pairs, int) or pairs * size > most else pairs * size

    def respond(self, unit: Unit) -> StageMemory | None:
        s = self.config.respond
        if s.source != "sample":
            return None
        return self._sampling("respond", [], s.batch_size, s.max_prompt_tokens, s.max_new_tokens)

    def weigh(self, unit: Unit) -> StageMemory | None:
        s, models = self.config.weights, self._bank()
        if not self.models:
            return None
        if self.config.respond.source == "sample":  # their responses are there
            longest = self.config.pm.max_length
            always = [*models, *self.layout.gathers(self.base, learns=False)]
            return self._stage("weigh", always, {"scoring": self.layout.scoring(self.base, longest)}, 0, None, "")
        return self._sampling("weigh", models, s.batch_size, s.max_prompt_tokens, s.max_new_tokens)

    def evaluate(self, unit: Unit) -> StageMemory:
        s = self.config.eval
        return self._sampling("evaluate", self._bank(), s.batch_size, s.max_prompt_tokens, s.max_new_tokens)

    def ppo(self, unit: Unit) -> StageMemory:
        s, layout = self.config.ppo, self.layout
        length = s.max_prompt_length + s.max_new_tokens
        rollouts = -(-s.rollouts // layout.ranks)
        at_once = min(s.generation_batch_size, rollouts)
        lora = s.policy.kind == "lora"
        one_base = self._one_base()
        always: list[Item] = []
        learning = 0
        if lora:
            adapters = 2 if s.critic.kind == "adapter" else 1
            size = self.shape.lora(s.policy.r)
            always += layout.frozen(self.shape) + layout.adapters(size, learn=adapters)
            learning += adapters * size
        else:
            always += layout.trained(self.shape)
            twin = layout if layout.ranks > 1 else replace(layout, element=4)  # a copy of weights in float32
            always += [item._replace(formula=f"reference: {item.formula}") for item in twin.frozen(self.shape)]
            learning += self.shape.parameters
        if s.critic.kind == "separate":
            always += [item._replace(formula=f"critic: {item.formula}") for item in layout.trained(self.shape)]
            learning += self.shape.parameters
        always += self._bank(base=not one_base)
        sampling = layout.cache(self.shape, Rows(at_once, length)) if s.rollout == "transformers" else self._vllm()
        if s.rollout == "vllm" and not s.vllm.sleep:
            always, sampling = [*always, *sampling], []
        always += layout.gathers(self.shape, learns=True)

        update = Rows(min(s.micro_batch_size, rollouts), length)
        rank = (s.policy.r, 0.0) if lora else None
        whole = self._kept_whole()
        turns = {
            "sampling": sampling,
            "scoring": layout.scoring(self.base, self.config.pm.max_length) if self.models else [],
            "learning": [
                *layout.activations(whole, update, s.policy.gradient_checkpointing, logits=False, lora=rank),
                _logits(self.shape, update.rows * s.max_new_tokens, layout.cuda),
            ],
        }
        tokens = s.rollouts * length
        factor = _factor(lora, s.policy.gradient_checkpointing)
        seconds = self._generation(s.rollouts, at_once, s.max_new_tokens, vllm=s.rollout == "vllm")
        seconds += self._compute(self.base, s.rollouts * self.config.pm.max_length, FORWARD * self.models)
        seconds += self._compute(self.shape, tokens, 2 * FORWARD + s.epochs * factor)
        return self._stage("ppo", always, turns, learning, seconds, f"of {s.rollouts} rollouts")

    def _vllm(self) -> list[Item]:
        """What vLLM takes of the training GPUs: the share that it is given, or at least its copy of the weights."""
        s = self.config.ppo.vllm
        if s.mode == "server":
            return []
        copy = self.shape.parameters * self.layout.element / s.tensor_parallel_size
        share = s.gpu_memory_utilization * self.hardware.machine.device_memory * 1e9
        text = f"vLLM: {s.gpu_memory_utilization:g} of the GPU, its copy of the weights ({copy / 1e9:.1f} GB) among it"
        return [Item("cache", max(share, copy), text)]

    def _kept_whole(self) -> Shape:
        """The policy without its last layer, where that keeps what the response's places need and frees it first.

        See `morlaif.models.tail`; at most half of the places being read, the layer below then has the peak.
        """
        s, layout = self.config.ppo, self.layout
        partly = not layout.cuda and layout.stage == 0 and layout.element == 4 and self.shape.kind in BLOCKS
        partly = partly and not s.policy.gradient_checkpointing and s.max_new_tokens <= s.max_prompt_length
        return replace(self.shape, layers=self.shape.layers - 1) if partly and self.shape.layers > 1 else self.shape

    def _learner(self, shape: Shape, lora: object | None) -> tuple[list[Item], int]:
        """A model in training, in full or by an adapter; how many parameters learn."""
        if lora is None:
            return self.layout.trained(shape), shape.parameters
        size = shape.lora(lora.r)
        return self.layout.frozen(shape) + self.layout.adapters(size, learn=1), size

    def _one_base(self) -> bool:
        """Under stage 3 one frozen base carries the policy's adapter and those of the preference models."""
        lora = self.config.ppo.policy.kind == "lora" and hasattr(self.config.pm, "lora")
        return self.layout.stage == 3 and lora and self.config.pm.base is None  # every kind with `lora` has a base

    def _bank(self, base: bool = True) -> list[Item]:
        """All preference models of an arm, ready to score."""
        if not self.models:
            return []
        lora = getattr(self.config.pm, "lora", None)
        if lora is None:
            each = self.layout.frozen(self.base)
            return [
                Item(i.column, i.bytes * self.models, f"{self.models} preference models × {i.formula}") for i in each
            ]  # fmt: skip
        items = [i._replace(formula=f"preference models' base: {i.formula}") for i in self.layout.frozen(self.base)]
        count = 1 if self.config.pm.kind in SHARED else self.models * getattr(self.config.pm, "members", 1)
        return (items if base else []) + self.layout.adapters(self._adapter(), learn=0, frozen=count)

    def _sampling(self, stage: str, models: list[Item], batch: int, prompt: int | None, new: int) -> StageMemory:
        """Sample from the policy; score what came with `models`, if any."""
        turns = {"sampling": self.layout.cache(self.shape, Rows(batch, (prompt or UNKNOWN_PROMPT) + new))}
        if models:
            turns["scoring"] = self.layout.scoring(self.base, self.config.pm.max_length)
        always = [*self.layout.frozen(self.shape), *models, *self.layout.gathers(self.shape, learns=False)]
        seconds = self._generation(batch * self.layout.ranks, batch, new)
        return self._stage(stage, always, turns, 0, seconds, f"of {batch * self.layout.ranks} responses")

    def _stage(
        self,
        stage: str,
        always: list[Item],
        turns: dict[str, list[Item]],
        learning: int,
        seconds: float | None,
        step: str,
    ) -> StageMemory:
        """`learning`: parameters that DeepSpeed steps."""
        if learning:
            turns = {**turns, "stepping": self.layout.stepping(learning)}
        phases = tuple((name, tuple(items)) for name, items in turns.items() if items)
        host = self.layout.host(learning)
        return StageMemory(stage, self.layout.ranks, tuple(always), phases, host, seconds, step)

    def _compute(self, shape: Shape, tokens: int, operations: float) -> float:
        """Seconds of `operations` for each parameter and token, over all ranks at the stated share of their peak."""
        machine = self.hardware.machine
        return operations * shape.parameters * tokens / (self.layout.ranks * machine.tflops * 1e12 * machine.mfu)

    def _generation(self, rows: int, at_once: int, new: int, vllm: bool = False) -> float:
        """Seconds to sample: each token step reads (or gathers anew) every weight once for all rows of a batch."""
        machine, layout = self.hardware.machine, self.layout
        size = self.shape.parameters * layout.element
        if vllm:
            step = size / self.config.ppo.vllm.tensor_parallel_size / (machine.bandwidth * 1e9)
        elif layout.stage == 3 and not layout.gathers_to_sample(self.shape):
            step = size * (layout.ranks - 1) / layout.ranks / (machine.link * 1e9)
        else:
            step = size / (machine.bandwidth * 1e9)
        batches = -(-rows // (at_once * layout.ranks))
        return max(batches * new * step, self._compute(self.shape, rows * new, FORWARD))


def stage_memories(config: Config, plan: Plan) -> list[StageMemory]:
    """One for each stage of `plan` that holds a model here; none where the model's shape cannot be told."""
    shape = of_model(config.model)
    base = shape
    if config.pm.kind == "pretrained":
        base = of_path(next(iter(config.pm.paths.values()), "")) or shape
    elif config.pm.base is not None:
        base = of_path(config.pm.base, config.pm.revision)
    if shape is None or base is None:
        return []
    arms = [unit for unit in plan.units if unit.stage in ("ppo", "weigh")]
    models = max((sum(need.stage == "pm" for need in unit.needs) for unit in arms), default=0)
    needs = Needs(config, shape, base, models)
    of_stage: dict[str, Callable[[Unit], StageMemory | None]] = {
        "sft": needs.sft, "respond": needs.respond, "pm": needs.pm, "weigh": needs.weigh, "ppo": needs.ppo,
        "evaluate": needs.evaluate, "backbone": needs.pm,
    }  # fmt: skip
    first = {unit.stage: unit for unit in reversed(plan.units)}
    found = [of_stage[stage](first[stage]) for stage in ON_RANKS if stage in first]
    return [memory for memory in found if memory is not None]


def _logits(shape: Shape, tokens: int, cuda: bool) -> Item:
    size = min(tokens * shape.vocabulary, LOGITS["cuda" if cuda else "cpu"])
    return Item("activ", size * 12.0, f"{size / 1e6:.3g} M logits at once × 12 B")


def _factor(lora: object | None, checkpointing: bool) -> float:
    """Operations a parameter and token of one forward and backward."""
    return FORWARD + (BACKWARD_LORA if lora else BACKWARD) + (FORWARD if checkpointing else 0)
