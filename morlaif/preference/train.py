"""Training one preference model on the verdicts of one principle.

The loop is our own: TRL's RewardTrainer takes hard labels alone, pads by batch order and costs seconds of set-up for
each of a dozen small models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, get_scheduler

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.models.load import load_tokenizer
from morlaif.preference import metrics
from morlaif.preference.card import write_card
from morlaif.preference.loss import centring, margin_bradley_terry, soft_bradley_terry
from morlaif.preference.model import (
    add_lora,
    fingerprint,
    head,
    init_head,
    load_classifier,
    pad_batch,
    quiet,
    score_batch,
)
from morlaif.preference.pairs import LabelledPairs, epoch_batches, label_pairs
from morlaif.preference.scoring import BUCKET_TOKENS, length_buckets
from morlaif.preference.settings import LoraPM, TrainedPM

if TYPE_CHECKING:
    from morlaif.feedback.records import Verdict

MODEL, REPORT = "model", "pm.json"  # inside the artifact of `pm`
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
OnStep = Callable[[int, int, float], None]  # step, steps, loss


@dataclass(frozen=True)
class PMReport:
    """What is known of a trained preference model; `pm.json` holds it."""

    principle: str
    kind: str
    pooling: str
    max_length: int
    base: dict[str, Any]  # path, revision, fingerprint of its weights, own: whether it is the run's SFT model
    accuracy: dict[str, Any]  # on held-out verdicts: value, low, high (Wilson, 95 %), n
    length_baseline: dict[str, Any]  # the same for the rule (longer, shorter) that fits the training pairs
    length_correlation: float | None  # of score and response length
    brier: float | None
    ece: float | None
    train_loss: float  # mean over the last tenth of the steps
    pairs: dict[str, int]  # train, held_out, invalid, ties
    steps: int


def train_pm(
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    held_pairs: Sequence[Pair],
    held_verdicts: Sequence[Verdict],
    base: str | Path,
    settings: TrainedPM,
    *,
    principle: str,
    out: Path,
    seed: int,
    revision: str | None = None,
    own_base: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    on_step: OnStep = lambda step, steps, loss: None,
) -> PMReport:
    """Train on `pairs`, test on `held_pairs`, write `out`/model (Hugging Face or peft format) and `out`/pm.json.

    `own_base`: the base is the run's own SFT model, which the bank is told of when the store has moved.
    The same seed, data and device give the same weights. With `dtype` below float32 the frozen base is kept in it, and
    the trained weights stay in float32 under autocast. Raises `UserError` where there is nothing to learn from.
    """
    tokenizer = load_tokenizer(base, revision=revision)
    data = label_pairs(tokenizer, pairs, verdicts, settings.max_length)
    held = label_pairs(tokenizer, held_pairs, held_verdicts, settings.max_length)
    usable = [i for i, p in enumerate(data.probability) if settings.ties == "keep" or not metrics.tied(p)]
    if not usable:
        raise UserError(f"pm/{principle}: none of {len(verdicts)} verdicts can be trained on ({data.invalid} invalid)")

    device = torch.device(device)
    lora = isinstance(settings, LoraPM)
    model = load_classifier(base, tokenizer, revision=revision, dtype=dtype if lora else torch.float32, device=device)
    origin = {"path": str(base), "revision": revision, "own": own_base, "fingerprint": fingerprint(model)}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        init_head(model, generator)
        whole = add_lora(model, settings.lora) if lora else model
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        losses = _fit(model, tokenizer, data, usable, settings, generator, device, dtype, on_step)
    model.eval()

    scores = _score_pairs(model, tokenizer, held, settings, device, dtype)
    rule = metrics.length_rule(np.subtract(*data.response_lengths.T), data.probability)
    report = PMReport(
        principle=principle,
        kind=settings.kind,
        pooling=settings.pooling,
        max_length=settings.max_length,
        base=origin,
        train_loss=float(np.mean(losses[-max(1, len(losses) // 10) :])),
        pairs={
            "train": len(usable),
            "held_out": len(held),
            "invalid": data.invalid + held.invalid,
            "ties": sum(map(metrics.tied, data.probability)),
        },
        steps=len(losses),
        **metrics.held_out(scores, held.response_lengths, held.probability, rule),
    )
    _save(whole, tokenizer, out, adapter=lora)
    (out / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n")
    write_card(out / MODEL / "README.md", report, settings)
    return report


def _save(model: nn.Module, tokenizer: PreTrainedTokenizerBase, out: Path, adapter: bool) -> None:
    # the row that a pad token may have added to an adapter's base need not be kept: nothing attends to it
    options = {"save_embedding_layers": False} if adapter else {}
    with quiet():
        model.save_pretrained(out / MODEL, **options)
    tokenizer.save_pretrained(out / MODEL)


def _fit(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: LabelledPairs,
    usable: Sequence[int],
    settings: TrainedPM,
    generator: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
    on_step: OnStep,
) -> list[float]:
    """Loss of each step."""
    lengths = [max(len(data.first[i].ids), len(data.second[i].ids)) for i in usable]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    top = {id(weight) for weight in head(model).parameters()}
    groups = [
        {"params": [weight for weight in trained if id(weight) not in top], "lr": settings.learning_rate},
        {"params": [weight for weight in trained if id(weight) in top], "lr": settings.head_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    total = settings.epochs * -(-len(usable) // settings.batch_size)
    warmup = min(settings.warmup_steps, total // 2)
    schedule = get_scheduler(SCHEDULES[settings.schedule], optimizer, num_warmup_steps=warmup, num_training_steps=total)
    micro = settings.micro_batch_size or settings.batch_size
    losses: list[float] = []
    model.train()
    for _ in range(settings.epochs):
        for batch in epoch_batches(lengths, settings.batch_size, generator):
            chunks = [[usable[i] for i in batch[start : start + micro]] for start in range(0, len(batch), micro)]
            loss = 0.0
            for chunk in chunks:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    part = _loss(model, tokenizer.pad_token_id, data, chunk, settings, device) / len(batch)
                part.backward()
                loss += float(part.detach())
            if not np.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {len(losses) + 1}: lower pm.learning_rate")
            nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss)
            on_step(len(losses), total, loss)
    return losses


def _loss(
    model: nn.Module, pad: int, data: LabelledPairs, chunk: Sequence[int], settings: TrainedPM, device: torch.device
) -> Tensor:
    """Summed loss of a chunk of pairs: both responses of each go through one forward."""
    batch = pad_batch([data.first[i] for i in chunk] + [data.second[i] for i in chunk], pad, device)
    first, second = score_batch(model, batch, settings.pooling).chunk(2)
    probability = torch.tensor([data.probability[i] for i in chunk], device=device)
    if settings.loss == "soft":
        loss = soft_bradley_terry(first, second, probability)
    else:
        loss = margin_bradley_terry(first, second, probability, settings.margin_scale)
    if settings.center:
        loss = loss + settings.center * centring(first, second)
    return loss.sum()


@torch.no_grad()
def _score_pairs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: LabelledPairs,
    settings: TrainedPM,
    device: torch.device,
    dtype: torch.dtype,
) -> np.ndarray:
    """(N, 2) scores of first and second responses."""
    rows = data.first + data.second
    scores = torch.zeros(len(rows))
    for bucket in length_buckets([len(row.ids) for row in rows], BUCKET_TOKENS.get(device.type, BUCKET_TOKENS["cuda"])):
        batch = pad_batch([rows[i] for i in bucket], tokenizer.pad_token_id, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores[bucket] = score_batch(model, batch, settings.pooling).cpu()
    return scores.view(2, -1).T.double().numpy()
