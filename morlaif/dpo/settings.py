"""Settings of direct preference optimisation. The values and their sources are in `conf/dpo/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from morlaif.dpo.registry import LOSSES
from morlaif.errors import UserError
from morlaif.rl.registry import with_params
from morlaif.rl.settings import CriticSettings, OptimizerSettings, PolicySettings, no_critic
from morlaif.settings import Batch, Count, Line, Outside, Params, Positive, Seeded, Stop, Tokens, Whole
from morlaif.steer.settings import UNSTEERED, SteerSettings


class DPOSettings(Seeded):
    """One run of DPO, MODPO or RDO."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"checkpoint_every", "micro_batch_size"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"steer": (UNSTEERED,)}
    reads_outside: ClassVar[Mapping[str, Outside]] = {"loss": "function"}

    kind: Literal["dpo", "modpo", "rdo"]
    principle: Line | None  # of modpo: the one whose verdicts are learnt from; null: each
    # the pairs
    targets: Literal["soft", "hard"]
    steer: SteerSettings
    max_length: Annotated[Tokens, Field(ge=2)]  # of prompt, half of them at most, and response
    # the loss
    beta: Positive
    loss: Annotated[Line, AfterValidator(LOSSES.checked)]  # a name, or the dotted path of your own
    loss_params: Params  # its keywords, where it has any
    # learning
    policy: PolicySettings
    optimizer: OptimizerSettings
    epochs: Positive
    max_steps: Count | None  # counts instead of `epochs`
    batch_size: Batch  # pairs
    micro_batch_size: Batch  # pairs
    # what is looked at, what is kept
    checkpoint_every: Whole
    eval_every: Whole
    eval_pairs: Whole
    eval_prompts: Whole
    max_new_tokens: Tokens
    stop: list[Stop]

    @model_validator(mode="after")
    def _check(self) -> DPOSettings:
        if self.principle is not None and self.kind != "modpo":
            raise ValueError(
                f"principle: {self.principle} is of kind: modpo; kind: {self.kind} learns from all verdicts"
            )
        if self.steer.kind != "none" and self.kind != "dpo":
            raise ValueError(
                f"steer.kind: {self.steer.kind} weighs verdicts, and kind: {self.kind} rewards; use kind: dpo"
            )
        if self.steer.kind == "lora":
            raise ValueError("steer.kind: lora has one scale in a forward, and each pair is told its own; use text")
        try:
            with_params(LOSSES, self.loss, self.loss_params)
        except UserError as error:
            raise ValueError(str(error).removeprefix("dpo.")) from None
        return self

    def steps(self, pairs: int) -> int:
        """Updates in which `epochs` passes over so many pairs are made, a batch each; one at least."""
        return self.max_steps or max(1, round(self.epochs * pairs / self.batch_size))

    @property
    def max_prompt(self) -> int:
        """Tokens of a prompt at most, whatever the response is, so that both of a pair are read behind the same one."""
        return self.max_length // 2

    # --- what a policy and its engine ask of the settings of any method ---

    @property
    def group(self) -> str:
        return "dpo"

    @property
    def critic(self) -> CriticSettings:
        return no_critic()

    @property
    def temperature(self) -> float:
        return 1.0

    @property
    def entropy_coef(self) -> float:
        return 0.0
