"""`sft`: the policy that everything starts from, fine-tuned on demonstrations or left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.data.records import Example, load_split
from morlaif.errors import UserError
from morlaif.models.finetune import finetune
from morlaif.models.load import load_causal_lm, load_tokenizer, point_to, save_policy
from morlaif.models.place import Source
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import LoRASFT, ModelSettings, NoSFT, ScratchSettings, SFTSettings
from morlaif.stages.sft import SFTJob
from morlaif.units.job import Job


def build(job: SFTJob) -> dict[str, Any]:
    base: ModelSettings = job.reads.model
    settings: SFTSettings = job.reads.sft
    if isinstance(settings, NoSFT):
        return _untouched(job, base)

    examples = load_split(job.needs.data, "sft")
    if base.scratch is not None:
        if isinstance(settings, LoRASFT):
            raise UserError("sft.method=lora needs a pretrained model, but model.scratch makes one from nothing")
        model, tokenizer = _from_nothing(base.scratch, examples, job.seed)
        model.to(job.device)
    else:
        # Adam's small steps vanish in half-precision weights; under LoRA the base does not move.
        dtype = job.dtype if isinstance(settings, LoRASFT) else torch.float32
        source = _source(base)
        tokenizer = load_tokenizer(source)
        model = load_causal_lm(source, dtype=dtype, device=job.device, tokenizer=tokenizer)
    parameters = sharded.count(model)
    model, report = finetune(
        model, tokenizer, examples, settings, seed=job.seed, keep=job.keep, dtype=job.dtype,
        on_log=lambda step, total, metrics: job.progress(step, total, **metrics),
    )  # fmt: skip
    leave(job, model, tokenizer)
    return {**asdict(report), "parameters": parameters, "examples": len(examples)}


def leave(job: Job[Any, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The policy in the run's number format; on several ranks put together, its adapter merged, by the first."""
    if ranks.count() == 1:
        save_policy(model.to(job.dtype), tokenizer, job.out)
        return
    state = sharded.state_dict(model, job.dtype)
    plain = getattr(model, "get_base_model", lambda: model)()
    plain.config.dtype = job.dtype
    ranks.on_first(lambda: save_policy(plain, tokenizer, job.out, state))


def _untouched(job: SFTJob, base: ModelSettings) -> dict[str, Any]:
    if base.path is None:
        raise UserError("sft=none needs a pretrained model (model.path), but model.scratch makes an untrained one")
    source = _source(base)
    load_tokenizer(source)  # a base without EOS fails here and not hours later
    return {"base": point_to(job.out, source)["path"]}


def _source(base: ModelSettings) -> Source:
    assert base.path is not None  # else the model is made from nothing
    return Source(base.path, base.revision, base.trust_remote_code, "model.path", base.attention)


def _from_nothing(
    settings: ScratchSettings, examples: Sequence[Example], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not examples:
        raise UserError("sft: the data's split 'sft' is empty, so there is no text to learn a tokenizer from")
    texts = (message["content"] for example in examples for message in example.messages)
    answers = (" " + example.demonstration for example in examples if example.demonstration)
    tokenizer = train_tokenizer(chain(texts, answers), settings.vocab_size)
    return build_causal_lm(settings, tokenizer, seed), tokenizer
