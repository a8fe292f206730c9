"""Supervised fine-tuning on demonstrations (TRL), with the loss on the response alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from morlaif.data.chat import dialogue_parts
from morlaif.data.records import Example
from morlaif.errors import UserError
from morlaif.models.settings import FullSFT, LoRASettings, LoRASFT

OnLog = Callable[[int, int, dict[str, float]], None]

IGNORED = -100  # label of a position that the loss leaves out


@dataclass(frozen=True)
class SFTReport:
    steps: int  # optimizer steps
    loss: float  # mean negative log-likelihood of a response token, over the last logged steps


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int) -> Dataset:
    """Columns input_ids, labels (prompt ignored) and length, of the examples that have a demonstration."""
    rows: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": []}
    for example in examples:
        if example.demonstration is None:
            continue
        prompt, answer = dialogue_parts(tokenizer, example.messages, example.demonstration, max_length)
        rows["input_ids"].append(prompt + answer)
        rows["labels"].append([IGNORED] * len(prompt) + answer)
        rows["length"].append(len(prompt) + len(answer))
    return Dataset.from_dict(rows)


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    settings: FullSFT | LoRASFT,
    *,
    seed: int,
    keep: Path,
    dtype: torch.dtype = torch.float32,
    on_log: OnLog = lambda step, total, metrics: None,
) -> tuple[PreTrainedModel, SFTReport]:
    """Train `model` where it lies, and return it: under LoRA with the adapter merged into its weights.

    `dtype` below float32 trains in mixed precision. Checkpoints go to `keep`; training resumes from the last one.

    Raises:
        UserError: no example has a demonstration, `max_length` exceeds the model, or the loss left the finite numbers.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and settings.max_length > limit:
        raise UserError(f"sft.max_length={settings.max_length} exceeds the model's {limit} positions")
    rows = tokenize(tokenizer, examples, settings.max_length)
    if not len(rows):
        raise UserError("sft: no row of the data's split 'sft' has a demonstration to imitate; use sft=none")

    progress = _Progress(on_log)
    trainer = _QuietSFTTrainer(
        model=model,
        args=_arguments(settings, seed=seed, keep=keep, device=model.device, dtype=dtype),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[progress],
        peft_config=_lora(settings.lora) if isinstance(settings, LoRASFT) else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_checkpoint(keep))

    if not math.isfinite(progress.loss):
        raise UserError(f"sft: the loss became {progress.loss}; lower sft.learning_rate (now {settings.learning_rate})")
    trained = trainer.model.merge_and_unload() if isinstance(settings, LoRASFT) else trainer.model
    return trained.eval(), SFTReport(trainer.state.global_step, progress.loss)


def _arguments(
    settings: FullSFT | LoRASFT, *, seed: int, keep: Path, device: torch.device, dtype: torch.dtype
) -> SFTConfig:
    checkpoints = {"save_strategy": "no"}
    if settings.checkpoint_every is not None:
        checkpoints = {"save_strategy": "steps", "save_steps": settings.checkpoint_every, "save_total_limit": 1}
    return SFTConfig(
        output_dir=str(keep),
        **checkpoints,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler if settings.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup,  # transformers reads a number below 1 as a share of all steps
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.gradient_checkpointing,
        optim="adamw_torch_fused",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        seed=seed % 2**32,  # the range that numpy takes
        data_seed=seed % 2**32,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,  # a lost training must not look like a good one
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        # The rows come tokenized and cut, by the same code as everywhere else.
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
    )


def _lora(settings: LoRASettings) -> LoraConfig:
    modules = settings.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )


def _last_checkpoint(keep: Path) -> str | None:
    """The latest whole checkpoint: a kill may have cut off the writing of the last one."""
    whole = [state.parent for state in keep.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))) if whole else None


class _QuietSFTTrainer(SFTTrainer):
    def _send_telemetry(self) -> None:
        """TRL would report its use to its makers; a run asks no network for anything that it was not told to."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """TRL's own loss, which on a CPU spends most of a step on the head at positions that have no label."""
        if inputs["input_ids"].device.type != "cpu" or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["labels"][:, 1:]
        columns = (targets != IGNORED).any(0).nonzero().squeeze(1)  # places where some row has a token to predict
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            logits_to_keep=columns,
        ).logits
        kept = targets[:, columns]
        total = F.cross_entropy(logits.float().flatten(0, 1), kept.flatten(), ignore_index=IGNORED, reduction="sum")
        if num_items_in_batch is None:
            return total / (kept != IGNORED).sum().clamp(min=1)
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1  # DDP takes their mean
        return total / num_items_in_batch * ranks


class _Progress(TrainerCallback):
    """Hands on what the trainer logs."""

    def __init__(self, report: OnLog) -> None:
        self.report = report
        self.loss = math.nan

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:  # the summary at the end has none
            return
        self.loss = float(logs["loss"])
        metrics = {"loss": self.loss, "learning_rate": float(logs["learning_rate"])}
        self.report(state.global_step, state.max_steps, metrics)
