"""Settings of a PPO run. The values and their sources are in `conf/ppo/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import AfterValidator, model_validator

from morlaif.errors import UserError
from morlaif.rl.advantages import Traits, traits
from morlaif.rl.registry import ESTIMATORS, LOSSES, with_params
from morlaif.settings import (
    Address,
    Batch,
    Coefficient,
    Count,
    Decay,
    LearningRate,
    Line,
    Multiple,
    Names,
    Number,
    Outside,
    Params,
    Port,
    Positive,
    Probability,
    Processes,
    Seconds,
    Seeded,
    Settings,
    Share,
    Size,
    Stop,
    Temperature,
    Tokens,
    Whole,
)
from morlaif.steer.settings import UNSTEERED, SteerSettings


class PolicySettings(Settings):
    """Which weights of the policy learn."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"gradient_checkpointing"})

    kind: Literal["full", "lora"]
    r: Size
    alpha: Positive
    target_modules: Line | Names
    export: Literal["merged", "adapter", "both"]
    gradient_checkpointing: bool

    @model_validator(mode="after")
    def _check(self) -> PolicySettings:
        if self.kind == "full" and self.export != "merged":
            raise ValueError(f"export: {self.export} needs kind: lora; a full policy has no adapter")
        return self


class CriticSettings(Settings):
    """Where the value estimate comes from; `none` for the estimators that need no critic."""

    kind: Literal["shared", "adapter", "separate", "none"]
    init: Literal["sft", "pm"]
    principle: Line | None
    learning_rate: LearningRate | None
    warmup_steps: Whole

    @model_validator(mode="after")
    def _check(self) -> CriticSettings:
        if self.init == "pm" and self.kind not in ("separate", "adapter"):
            raise ValueError("init: pm needs kind: adapter or separate, since a shared trunk starts as the SFT model")
        return self


class OptimizerSettings(Settings):
    """AdamW, its schedule and its clip."""

    learning_rate: LearningRate
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: Whole
    betas: tuple[Decay, Decay]
    eps: Share
    weight_decay: Coefficient
    max_grad_norm: Positive


class KLSettings(Settings):
    """How far the policy may go from the reference, and where that is charged."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"convex": (False,)}

    placement: Literal["reward", "loss"]
    estimator: Literal["k1", "k2", "k3"]
    controller: Literal["fixed", "adaptive"]
    coef: Coefficient
    target: Positive
    horizon: Positive
    stop: Positive | None
    convex: bool  # what a nat costs is taken from what the score counts: (1 − coef) · score − coef · KL

    @model_validator(mode="after")
    def _check(self) -> KLSettings:
        if self.convex and (self.placement, self.controller) != ("reward", "fixed"):
            raise ValueError(
                "convex: the score and the KL share one weight, in the reward: placement: reward, controller: fixed"
            )
        if self.convex and self.coef > 1:
            raise ValueError(f"coef: {self.coef:g} leaves the score a negative weight (convex); give 1 at most")
        if self.placement == "reward" and self.estimator != "k1":
            raise ValueError(f"estimator: {self.estimator} in the reward is biased; use k1 there, or placement: loss")
        if self.placement == "loss" and self.estimator == "k1":
            raise ValueError(
                "estimator: k1 in the loss has a gradient of mean zero; use k2 or k3, or placement: reward"
            )
        return self


class ShapingSettings(Settings):
    """From the scalarized score of a response to the reward at its last token."""

    scaling: Literal["none", "batch", "running", "frozen"]
    center: bool
    clip: Positive | None
    missing_eos: Literal["none", "replace", "subtract"]
    missing_eos_value: Number
    length_penalty: Coefficient
    score_at: Literal["last_token", "after_eos"]
    constant_score: Literal["stop", "allow"]


class VLLMSettings(Settings):
    """The engine that samples when `rollout` is vllm."""

    outside_digest: ClassVar[frozenset[str]] = frozenset(
        {"mode", "server_url", "handover", "folder", "group_port", "server_timeout", "tensor_parallel_size",
         "gpu_memory_utilization", "max_num_seqs", "sleep"}
    )  # fmt: skip
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"handover": ("nccl",), "folder": (None,)}

    mode: Literal["colocate", "server"]
    server_url: Address | None
    handover: Literal["nccl", "folder", "adapter"]
    folder: Line | None
    group_port: Port
    server_timeout: Seconds
    tensor_parallel_size: Processes
    gpu_memory_utilization: Share
    max_num_seqs: Batch | None
    sleep: bool

    @model_validator(mode="after")
    def _check(self) -> VLLMSettings:
        if self.mode == "server" and self.server_url is None:
            raise ValueError("mode: server needs server_url, such as http://localhost:8000")
        return self


class Learns(Protocol):
    """What policy, critic and engine read of a method's settings, those of PPO or of another one that learns."""

    @property
    def group(self) -> str: ...  # of the config, for messages
    @property
    def policy(self) -> PolicySettings: ...
    @property
    def critic(self) -> CriticSettings: ...
    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def temperature(self) -> float: ...
    @property
    def entropy_coef(self) -> float: ...


def no_critic() -> CriticSettings:
    return CriticSettings(kind="none", init="sft", principle=None, learning_rate=None, warmup_steps=0)


class PPOSettings(Seeded):
    """One PPO run: the numbered parts of `morlaif.rl.learner`, in their order."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"checkpoint_every"})
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "advantage_params": ({},),
        "loss": ("clip",),
        "loss_params": ({},),
        "overlap": (False,),
        "keep_every": (None,),
        "importance_cap": (None,),
        "gradient_cosines_every": (0,),
        "loss_aggregation": ("token",),
        "gradient_weights": ("none",),
        "learn_from": ("all",),
        "drop_level_groups": (False,),
        "scale_rewards": (False,),
        "target_kl": (None,),
        "clip_range_high": (None,),
        "dual_clip": (None,),
        "steer": (UNSTEERED,),
    }
    reads_outside: ClassVar[Mapping[str, Outside]] = {"advantage": "function", "loss": "function"}

    steps: Count
    # 1. sample
    rollouts: Batch
    samples_per_prompt: Batch
    max_prompt_length: Tokens
    max_new_tokens: Tokens
    temperature: Temperature
    stop: list[Stop]
    generation_batch_size: Batch
    rollout: Literal["transformers", "vllm"]
    vllm: VLLMSettings
    overlap: bool
    importance_cap: Positive | None
    steer: SteerSettings
    # 2. score, 3. shape the reward
    shaping: ShapingSettings
    kl: KLSettings
    gradient_weights: Literal["none", "mgda", "pcgrad"]
    learn_from: Literal["all", "best", "best_and_worst"]
    drop_level_groups: bool
    # 4. estimate advantages
    advantage: Annotated[Line, AfterValidator(ESTIMATORS.checked)]  # a name, or the dotted path of your own
    advantage_params: Params  # its keywords, where it has any
    gamma: Probability
    lam: Probability
    whiten_advantages: bool
    whiten_rewards: bool
    scale_rewards: bool
    # 5. optimise
    policy: PolicySettings
    critic: CriticSettings
    optimizer: OptimizerSettings
    loss: Annotated[Line, AfterValidator(LOSSES.checked)]  # of the policy; a name, or the dotted path of your own
    loss_params: Params  # its keywords, where it has any
    loss_aggregation: Literal["token", "sequence", "constant"]
    epochs: Count
    minibatches: Batch
    micro_batch_size: Batch
    target_kl: Positive | None
    clip_range: Positive
    clip_range_high: Positive | None
    dual_clip: Multiple | None
    clip_range_value: Positive | None
    value_coef: Coefficient
    entropy_coef: Coefficient
    # 6. log, keep
    gradient_cosines_every: Whole
    checkpoint_every: Whole
    eval_every: Whole
    eval_prompts: Whole
    samples: Whole
    keep: Literal["last", "best"]
    keep_other: bool
    keep_every: Count | None

    @model_validator(mode="after")
    def _check(self) -> PPOSettings:
        if self.rollouts % self.samples_per_prompt:
            raise ValueError(
                f"rollouts: {self.rollouts} is no multiple of samples_per_prompt {self.samples_per_prompt}"
            )
        if self.minibatches > self.rollouts:
            raise ValueError(f"minibatches: {self.minibatches} is more than rollouts: {self.rollouts}")
        try:
            with_params(ESTIMATORS, self.advantage, self.advantage_params)
            with_params(LOSSES, self.loss, self.loss_params)
        except UserError as error:
            raise ValueError(str(error).removeprefix("ppo.")) from None
        if self.traits.grouped and self.samples_per_prompt < 2:
            raise ValueError(
                f"advantage: {self.advantage} compares answers to one prompt; set samples_per_prompt above 1"
            )
        if self.samples_per_prompt < 2 and (self.drop_level_groups or self.learn_from != "all"):
            key = "drop_level_groups" if self.drop_level_groups else f"learn_from: {self.learn_from}"
            raise ValueError(f"{key} compares answers to one prompt; set samples_per_prompt above 1")
        if self.scale_rewards and self.whiten_rewards:
            raise ValueError("scale_rewards and whiten_rewards both bring rewards to a deviation; set one of them")
        if self.traits.critic != (self.critic.kind != "none"):
            need = "needs a critic: set critic.kind" if self.traits.critic else "has no critic: set critic.kind: none"
            raise ValueError(f"advantage: {self.advantage} {need}")
        if self.loss == "reinforce" and self.epochs > 1:
            raise ValueError(
                f"loss: reinforce has no ratio that would correct a second pass; set epochs: 1, not {self.epochs}"
            )
        if self.shaping.score_at == "after_eos" and not self.traits.critic:
            raise ValueError("shaping.score_at: after_eos is a state that only a critic values; use advantage: gae")
        if self.critic.kind == "adapter" and self.policy.kind != "lora":
            raise ValueError(
                "critic.kind: adapter shares the policy's frozen base, which policy.kind: full moves; use "
                "policy.kind: lora, or critic.kind: separate"
            )
        if self.steer.kind == "lora" and self.policy.kind != "lora":
            raise ValueError("steer.kind: lora scales parts of an adapter; use policy.kind: lora, or steer.kind: text")
        if self.steer.kind != "none" and self.gradient_weights != "none":
            raise ValueError(
                f"gradient_weights: {self.gradient_weights} weighs principles by itself, and steer by what is drawn; "
                "set one of them to none"
            )
        for key, off in (("gradient_cosines_every", 0), ("gradient_weights", "none")):
            if getattr(self, key) != off and self.policy.kind != "lora":
                raise ValueError(
                    f"{key}: a gradient of each principle is held, as large as what learns; use "
                    f"policy.kind: lora, or {off}"
                )
        if self.samples > self.eval_prompts:
            raise ValueError(f"samples: {self.samples} is more than eval_prompts: {self.eval_prompts}, which it shows")
        if (self.eval_every or self.keep == "best") and not self.eval_prompts:
            raise ValueError("eval_prompts: 0 leaves nothing for eval_every or keep: best; hold out some prompts")
        if self.rollouts == 1 and (self.shaping.scaling == "batch" or self.whiten_rewards):
            raise ValueError(
                "rollouts: 1 has no deviation to divide by; use shaping.scaling: none, whiten_rewards: false"
            )
        return self

    @property
    def group(self) -> str:
        return "ppo"

    @property
    def traits(self) -> Traits:
        """What the advantage estimator wants."""
        return traits(ESTIMATORS.find(self.advantage))
