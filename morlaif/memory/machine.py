"""What stages of every kind are made of, in bytes and seconds, on one machine and with the models of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from morlaif.hardware import HardwareSettings
from morlaif.memory.dimensions import Dimensions
from morlaif.memory.estimate import LOGITS, ForwardSize, Item, Layout, StageMemory
from morlaif.models.settings import LoRASettings
from morlaif.preference.kind import Footprint

UNKNOWN_PROMPT = 512  # tokens, where the settings leave the prompt's length to the model
FORWARD, BACKWARD_LORA, BACKWARD = 2, 2, 4  # operations a parameter and token; frozen weights need no gradient


@dataclass(frozen=True)
class Judging:
    """A language model that judges in this process."""

    dims: Dimensions
    element: int  # bytes of a number
    rows: int  # questions at once
    questions: int  # that share their beginning: principles
    prompt: int  # tokens of that beginning, at most
    ending: int  # tokens of what a question adds


@dataclass(frozen=True)
class Machine:
    """One machine, and the models that the stages of one run put onto it."""

    hardware: HardwareSettings
    policy: Dimensions
    base: Dimensions  # of the preference models
    kind: Footprint | None  # what the preference models hold; None where that cannot be known
    models: int  # preference models of the largest arm
    on_policy: bool  # whether they start from the run's SFT model
    mapped: float = 0.0  # bytes of the policy's file, which is in memory while its weights are made of it

    @property
    def layout(self) -> Layout:
        return Layout.of(self.hardware)

    @property
    def longest(self) -> int | None:
        """Tokens of prompt and response that a preference model reads at most; None: not known."""
        return self.kind.max_length if self.kind else None

    # --- what is held --------------------------------------------------------------------------------------------

    def learner(self, model: Dimensions, lora: LoRASettings | None) -> tuple[list[Item], int]:
        """A model in training, in full or by an adapter; how many parameters learn."""
        if lora is None:
            return self.layout.trained(model), model.parameters
        size = model.lora(lora.r)
        return self.layout.frozen(model) + self.layout.adapters(size, learn=1), size

    def adapter(self, lora: LoRASettings) -> int:
        """Parameters of one preference model's adapter: in all layers, or in the top ones."""
        layers = max(1, round((self.kind.top if self.kind else 1.0) * self.base.layers))
        return self.base.lora(lora.r) * layers // self.base.layers

    def bank(self, base: bool = True) -> list[Item]:
        """All preference models of an arm, ready to score. `base`: whether their frozen base is theirs alone."""
        if not self.models or self.kind is None:
            return []
        frozen = self.layout.frozen(self.base)
        if self.kind.lora is None:
            return [
                Item(i.column, i.bytes * self.models, f"{self.models} preference models × {i.formula}") for i in frozen
            ]
        items = [item._replace(formula=f"preference models' base: {item.formula}") for item in frozen] if base else []
        count = 1 if self.kind.one_adapter else self.models * self.kind.members
        return items + self.layout.adapters(self.adapter(self.kind.lora), learn=0, frozen=count)

    def scoring(self) -> list[Item]:
        """A forward of the preference models."""
        return self.layout.scoring(self.base, self.kind.max_length) if self.models and self.kind else []

    def logits(self, tokens: int) -> Item:
        size = min(tokens * self.policy.vocabulary, LOGITS["cuda" if self.layout.cuda else "cpu"])
        return Item("activ", size * 12.0, f"{size / 1e6:.3g} M logits at once × 12 B")

    def judging(self, judge: Judging) -> tuple[list[Item], list[Item]]:
        """A language model that judges here: what is held all the time, and while it reads."""
        dims, b = judge.dims, judge.element
        weights = [Item("model", dims.parameters * b, f"judge: {dims.parameters / 1e6:,.1f} M × {b} B")]
        beginnings = -(-judge.rows // judge.questions)
        cached = judge.rows * dims.cached(judge.prompt + judge.ending) * b
        once = beginnings * dims.cached(judge.prompt) * b
        ending = judge.rows * judge.ending
        wide = max(beginnings * judge.prompt, ending) * (6 * dims.width + 3 * dims.widest) * b
        logits = max(ending * b, judge.rows * (b + 8)) * dims.vocabulary
        return weights, [
            Item("cache", cached + once, f"judge: {judge.rows} questions × {judge.prompt + judge.ending} tokens"),
            Item("activ", max(wide, logits), f"judge: {ending:,} tokens × {dims.vocabulary:,} logits × {b} B"),
        ]  # fmt: skip

    # --- seconds -------------------------------------------------------------------------------------------------

    def compute(self, model: Dimensions, tokens: float, operations: float, logits: float = 0) -> float:
        """Seconds of `operations` for each parameter and token, over all ranks at the stated share of their peak.

        `logits`: tokens that go through the output head too.
        """
        machine = self.hardware.machine
        through = model.body * tokens + model.vocabulary * model.width * logits
        return operations * through / (self.layout.ranks * machine.tflops * 1e12 * machine.mfu)

    def generation(self, rows: int, at_once: int, new: int, vllm_parts: int = 0) -> float:
        """Seconds to sample: each token step reads (or gathers anew) every weight once for all rows of a batch.

        `vllm_parts`: over how many GPUs an engine of vLLM cuts the weights; 0: there is none.
        """
        machine, layout = self.hardware.machine, self.layout
        size = self.policy.parameters * layout.element
        if vllm_parts:
            step = size / vllm_parts / (machine.bandwidth * 1e9)
        elif layout.stage == 3 and not layout.gathers_to_sample(self.policy):
            step = size * (layout.ranks - 1) / layout.ranks / (machine.link * 1e9)
        else:
            step = size / (machine.bandwidth * 1e9)
        batches = -(-rows // (at_once * layout.ranks))
        return max(batches * new * step, self.compute(self.policy, rows * new, FORWARD, logits=rows * new))

    # --- a stage -------------------------------------------------------------------------------------------------

    def sampling(
        self, stage: str, batch: int, prompt: int | None, new: int, models: Sequence[Item] = ()
    ) -> StageMemory:
        """Sample from the policy; score what came with `models`, if any."""
        turns = {"sampling": self.layout.cache(self.policy, ForwardSize(batch, (prompt or UNKNOWN_PROMPT) + new))}
        if models:
            turns["scoring"] = self.scoring()
        always = [*self.layout.frozen(self.policy), *models, *self.layout.gathers(self.policy, learns=False)]
        rows = batch * self.layout.ranks
        return self.stage(stage, always, turns, 0, self.generation(rows, batch, new), f"of {rows} responses")

    def stage(
        self,
        stage: str,
        always: Sequence[Item],
        turns: Mapping[str, Sequence[Item]],
        learning: int,
        seconds: float | None,
        step: str,
    ) -> StageMemory:
        """`learning`: parameters that DeepSpeed steps."""
        if learning:
            turns = {**turns, "stepping": self.layout.stepping(learning)}
        if self.mapped:
            note = "the policy's file, mapped until its weights are converted"
            turns = {"loading": [Item("model", self.mapped, note)], **turns}
        phases = tuple((name, tuple(items)) for name, items in turns.items() if items)
        host = self.layout.host(learning)
        return StageMemory(stage, self.layout.ranks, tuple(always), phases, host, seconds, step)


def operations(lora: bool, checkpointing: bool) -> float:
    """Operations a parameter and token of one forward and backward."""
    return FORWARD + (BACKWARD_LORA if lora else BACKWARD) + (FORWARD if checkpointing else 0)
