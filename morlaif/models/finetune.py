"""Supervised fine-tuning on demonstrations (TRL), with the loss on the response alone."""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from morlaif import ranks, sharded
from morlaif.batches import microbatches
from morlaif.data.chat import dialogue_parts, keep_end
from morlaif.data.records import Example
from morlaif.data.spool import token_spool
from morlaif.errors import UserError
from morlaif.files import read_json
from morlaif.models.layers import unfit_for_lora
from morlaif.models.settings import FullSFT, LoRASettings, LoRASFT
from morlaif.pace import Pace
from morlaif.ranks import barrier, gather, rank

log = logging.getLogger(__name__)
OnLog = Callable[[int, int, dict[str, float]], None]

CHECKPOINT = "training.pt"  # what learns, its optimizer and its schedule, inside `checkpoint-<step>`
WHOLE = "trainer_state.json"  # the trainer's own state, written last: the checkpoint is whole
IGNORED = -100  # label of a position that the loss leaves out


@dataclass(frozen=True)
class SFTReport:
    steps: int  # optimizer steps
    loss: float  # mean negative log-likelihood of a response token, over the last logged steps


@dataclass(frozen=True)
class Turn:
    """A response that was sampled, as its ids: it is learnt as it is, with an end where it had one."""

    prompt: list[int]
    response: list[int]

    def parts(self, max_length: int, bos: int | None) -> tuple[list[int], list[int]]:
        """At most `max_length` ids; a longer prompt loses its beginning."""
        prompt = keep_end(self.prompt, max(1, max_length - len(self.response)), bos)
        return prompt, self.response[: max_length - len(prompt)]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example | Turn], max_length: int, folder: Path | None = None
) -> Dataset:
    """Columns input_ids, labels (prompt ignored) and length, of the examples that have a demonstration.

    The ids lie in a file in `folder` (see `Spool`); a row of the dataset reads its own when it is asked for.
    """
    spool = token_spool(folder)
    lengths, prompts = array("I"), array("I")
    for example in examples:
        if isinstance(example, Turn):
            prompt, answer = example.parts(max_length, tokenizer.bos_token_id)
        elif example.demonstration is None:
            continue
        else:
            prompt, answer = dialogue_parts(tokenizer, example.messages, example.demonstration, max_length)
        spool.append(prompt + answer)
        lengths.append(len(prompt) + len(answer))
        prompts.append(len(prompt))
    columns = {"row": np.arange(len(lengths)), "length": np.array(lengths), "prompt": np.array(prompts)}
    return Dataset.from_dict(columns).with_transform(_Tokens(spool))


class _Tokens:
    """Puts the ids and labels of rows in the place of their numbers."""

    def __init__(self, ids: Sequence[list[int]]) -> None:
        self.ids = ids

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        if "row" not in batch:  # lengths alone
            return dict(batch)
        ids = [self.ids[row] for row in batch["row"]]
        labels = [[IGNORED] * n + own[n:] for own, n in zip(ids, batch["prompt"], strict=True)]
        return {"input_ids": ids, "labels": labels, "length": batch["length"]}

    def __reduce__(self) -> tuple[Any, ...]:  # `datasets` takes its hash, and nothing loads it again
        return (_Tokens, ((),))


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example | Turn],
    settings: FullSFT | LoRASFT,
    *,
    seed: int,
    keep: Path,
    dtype: torch.dtype = torch.float32,
    on_log: OnLog = lambda step, total, metrics: None,
    key: str = "sft",
) -> tuple[PreTrainedModel, SFTReport]:
    """Train `model` where it lies, and return it: under LoRA with the adapter merged into its weights.

    On several ranks every rank calls this alike, the model stays in parts, an adapter in its place: `save_policy` puts
    them together. The same batches give the same losses on however many ranks, but for dropout's noise.

    `dtype` below float32 trains in mixed precision. Checkpoints go to `keep`; training resumes from the last one. `key`
    is that of the settings in the config, for messages.

    Raises:
        UserError: no example has a demonstration, `max_length` exceeds the model, or the loss left the finite numbers.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and settings.max_length > limit:
        raise UserError(f"{key}.max_length={settings.max_length} exceeds the model's {limit} positions")
    rows = tokenize(tokenizer, examples, settings.max_length, keep)
    if not len(rows):
        raise UserError(f"{key}: no row of the data's split 'sft' has a demonstration to imitate; use sft=none")

    trainer = _QuietSFTTrainer(
        model=model,
        args=_arguments(settings, seed=seed, keep=keep, device=model.device, dtype=dtype, key=key),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[_Progress(on_log, Pace(settings.checkpoint_every))],
        peft_config=_lora(settings.lora, model) if isinstance(settings, LoRASFT) else None,
    )
    trainer.remove_callback(PrinterCallback)
    outcome = trainer.train(resume_from_checkpoint=ranks.on_first(lambda: _last_checkpoint(keep), patiently=True))

    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]  # with those before a resume
    loss = float(logged[-1] if logged else outcome.training_loss)  # a run shorter than sft.log_every logs none
    if not math.isfinite(loss):
        raise UserError(f"{key}: the loss became {loss}; lower {key}.learning_rate (now {settings.learning_rate})")
    report = SFTReport(trainer.state.global_step, loss)
    if ranks.count() > 1:
        return trainer.model.eval(), report
    trained = trainer.model.merge_and_unload() if isinstance(settings, LoRASFT) else trainer.model
    return trained.eval(), report


def _arguments(
    settings: FullSFT | LoRASFT, *, seed: int, keep: Path, device: torch.device, dtype: torch.dtype, key: str = "sft"
) -> SFTConfig:
    micro, accumulation = microbatches(settings.batch_size, settings.micro_batch_size, ranks.count(), key=key)
    checkpoints: dict[str, Any] = {"save_strategy": "no"}
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
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.gradient_checkpointing,
        optim="adamw_torch" if ranks.count() > 1 else "adamw_torch_fused",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        accelerator_config={"use_configured_state": ranks.count() > 1},  # the ranks have met already
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
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
    )


def _lora(settings: LoRASettings, model: PreTrainedModel) -> LoraConfig:
    modules = settings.target_modules
    return LoraConfig(
        exclude_modules=unfit_for_lora(model) or None,
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )


def _last_checkpoint(keep: Path) -> str | None:
    """The latest whole checkpoint: a kill may have cut off the writing of the last one. What is damaged is removed."""
    whole = [state.parent for state in keep.glob(f"checkpoint-*/{WHOLE}")]
    for folder in sorted(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), reverse=True):
        if (wrong := _damage(folder)) is None:
            return str(folder)
        log.warning("sft: %s is damaged (%s); it is removed, and the training goes on without it", folder, wrong)
        shutil.rmtree(folder)
    return None


def _damage(folder: Path) -> str | None:
    try:
        read_json(folder / WHOLE, "the state of a training", of=dict)
        with zipfile.ZipFile(folder / CHECKPOINT) as archive:
            broken = archive.testzip()
    except (UserError, OSError, zipfile.BadZipFile) as error:
        return str(error)
    return broken and f"{CHECKPOINT}: the content of {broken} is not what was written"


class _Batches(Sampler[int]):
    """Rows in an order in which each run of `batch` is the batch of one optimizer step, on however many ranks.

    Neighbours are of like length. The last batch is filled up from the beginning, so that every rank has its share.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = list(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.batch, generator=generator)
        return itertools.islice(itertools.cycle(order), len(self))


class _QuietSFTTrainer(SFTTrainer):
    def _send_telemetry(self) -> None:
        """TRL would report its use to its makers; a run sends nothing that its config does not ask for."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * ranks.count()
        return _Batches(rows["length"], batch, self.args.data_seed)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[Any], resume_from_checkpoint: str | None
    ) -> tuple[torch.nn.Module, DataLoader[Any]]:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if ranks.count() > 1:
            if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
                raise RuntimeError(f"ranks train under DEEPSPEED, not {self.accelerator.distributed_type.value}")
            if self.deepspeed.zero_optimization_stage() == 3:
                sharded.assert_sharded(self.model)
        if resume_from_checkpoint is not None:
            self._resume(Path(resume_from_checkpoint))
        return prepared

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """One file that does not depend on how many ranks there are, and the trainer's own state.

        The trainer's checkpoints, and DeepSpeed's, can only be resumed by as many ranks as wrote them.
        """
        training = sharded.training_state(self.model, self.optimizer.optimizer)
        noise = gather(self._noise())
        if training is not None:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            rest = {"schedule": self.lr_scheduler.state_dict(), "noise": noise}
            if (scaler := self.accelerator.scaler) is not None:
                rest["scaler"] = scaler.state_dict()
            torch.save({"training": training, **rest}, folder / CHECKPOINT)
            self.state.save_to_json(str(folder / WHOLE))  # last: it tells that the folder is whole
            for older in Path(self.args.output_dir).glob("checkpoint-*"):
                if older != folder:
                    shutil.rmtree(older)
        barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Nothing: `_prepare_for_training` resumes, when there is an optimizer."""

    def _resume(self, folder: Path) -> None:
        state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
        sharded.load_training_state(self.model, self.optimizer.optimizer, state["training"])
        self.lr_scheduler.load_state_dict(state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._restored = state["noise"][rank()] if len(state["noise"]) == ranks.count() else None

    def _noise(self) -> Tensor:
        """State of the generator that dropout draws from."""
        return torch.cuda.get_rng_state() if self.args.device.type == "cuda" else torch.get_rng_state()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The trainer calls this when it has skipped the rows already seen. Other ranks than before draw anew."""
        if checkpoint is not None and self._restored is not None:
            (torch.cuda if self.args.device.type == "cuda" else torch).set_rng_state(self._restored)

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
    """Hands on each step and what the trainer logs, and asks for checkpoints."""

    def __init__(self, report: OnLog, pace: Pace) -> None:
        self.report, self.pace = report, pace

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if not control.should_log:  # on_log is next
            self.report(state.global_step, state.max_steps, {})
        control.should_save |= self.pace.due(state.global_step)
        return control

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
        metrics = {"loss": float(logs["loss"]), "learning_rate": float(logs["learning_rate"])}
        self.report(state.global_step, state.max_steps, metrics)
