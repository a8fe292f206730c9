"""Models and tokenizers from a folder or a hub: with a pad token of their own, a chat template, and room for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from morlaif import sharded
from morlaif.data.chat import prepare_tokenizer
from morlaif.errors import UserError
from morlaif.models.check import adapter_problems
from morlaif.models.ends import ends_of
from morlaif.models.head import logits_fault
from morlaif.models.open import (
    check_causal,
    check_files,
    check_finite,
    check_vocabulary,
    open_config,
    open_model,
    open_tokenizer,
    quiet,
)
from morlaif.models.place import POINTER, Source, absolute, folder_of, read_pointer
from morlaif.models.settings import ModelSettings

MODEL = "model"  # folder of the model inside the artifact of `sft`, or a file POINTER names the untouched base …
ADAPTER = "adapter"  # … on which, if it is there, the peft adapter in this folder sits
_HELD: set[tuple[str, str | None, torch.dtype, int]] = set()  # models whose logits were compared in this process


def load_tokenizer(
    source: Source | str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a dedicated pad token and a chat template.

    Raises:
        UserError: there is none at `source`, or it has no EOS token.
    """
    tokenizer = open_tokenizer(Source.of(source, revision=revision, trust_remote_code=trust_remote_code))
    prepare_tokenizer(tokenizer)
    return tokenizer


def load_causal_lm(
    source: Source | str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    attention: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """The causal LM at `source` in eval mode, its embeddings grown if `tokenizer` (default: its own) needs more rows.

    Raises:
        UserError: there is no such model, or it is no sound causal language model; see `open_model`.
    """
    source = Source.of(source, revision=revision, trust_remote_code=trust_remote_code, attention=attention)
    if tokenizer is None:
        tokenizer = load_tokenizer(source)
    model = open_model(AutoModelForCausalLM, source, "causal", dtype=dtype).eval()
    fit_to_tokenizer(model, tokenizer, source.where)
    if not any(map(sharded.is_sharded, model.parameters())):  # else DeepSpeed has put each part where it belongs
        model.to(device)
    check_causal(source, model)
    _check_logits(source, model)
    return model


def _check_logits(source: Source, model: PreTrainedModel) -> None:
    """Hold our log-probabilities against the model's own, once in this process.

    Not for models that this project wrote: what they were made from has been asked. Nor where weights lie in parts,
    where a forward is an exchange between ranks, or nowhere: their head was found by the same code.

    Raises:
        UserError: they differ.
    """
    folder = folder_of(source.path, source.revision)
    facts = folder / "config.json" if folder is not None else None
    asked = (source.path, source.revision, model.dtype, facts.stat().st_mtime_ns if facts and facts.exists() else 0)
    absent = any(weight.is_meta or sharded.is_sharded(weight) for weight in model.parameters())
    if source.own or absent or asked in _HELD:
        return
    try:
        fault = logits_fault(model)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:  # its own way
        fault = f"or cannot be had ({' '.join(str(error).split())[:200] or type(error).__name__})"
    if fault is not None:
        raise UserError(
            f"{source.where}: log-probabilities of {type(model).__name__} as PPO would learn from them differ from its "
            f"own logits {fault}; take a model of another architecture"
        )
    _HELD.add(asked)


def fit_to_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str = "model") -> None:
    """Grow the embeddings by the row of a pad token that has none, in place, and name it in the configs.

    A new row is the mean of the old ones, so that the new token is neither likely nor, in tied models, a wild logit;
    transformers would draw it at random, and two loads of one model would differ.

    Raises:
        UserError: another token has no row; see `check_vocabulary`.
    """
    old = sharded.shape(model.get_input_embeddings().weight)[0]
    if (rows := check_vocabulary(where, tokenizer, old)) > old:
        model.resize_token_embeddings(rows, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            with sharded.gathered([layer.weight], change=True), torch.no_grad():
                layer.weight[old:] = layer.weight[:old].mean(0)
    sharded.split(model)
    for config in (model.config, model.generation_config):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id


def source_of(
    folder: Path, base: ModelSettings | None = None, key: str = "model.path", trust_remote_code: bool = False
) -> Source:
    """The model that the artifact in `folder` holds or points to, without the artifact's own adapter.

    Args:
        base: the run's `model`: where the untouched base lies now, and whether it may run Python of its own. Without
            it the base is looked for where it lay, and may not.
        key: of the config, for messages.
        trust_remote_code: whether the config says so of a policy that is not the run's own.

    Raises:
        UserError: there is no model here.
    """
    folder = Path(folder)
    trusted = trust_remote_code if base is None else base.trust_remote_code
    if (folder / MODEL / "config.json").is_file() and not (folder / POINTER).is_file():
        return Source(str(folder / MODEL), trust_remote_code=trusted, own=True, key=key)
    if not (folder / POINTER).is_file():
        raise UserError(f"{folder}: no model here, neither a folder '{MODEL}' nor a file '{POINTER}'")
    origin = read_pointer(folder)
    here = {"trust_remote_code": trusted, "key": key, "attention": origin["attention"]}
    if origin["untouched"] and base is not None and base.path is not None:
        return Source(absolute(base.path), base.revision, **here)
    return Source(origin["path"], origin["revision"], own=not origin["untouched"], **here)


def load_policy(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    base: ModelSettings | None = None,
    key: str = "model.path",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of the artifact in `folder`; `base`, `key` and `trust_remote_code` as in `source_of`."""
    folder = Path(folder)
    source = source_of(folder, base, key, trust_remote_code)
    tokenizer = load_tokenizer(source)
    model = load_causal_lm(source, dtype=dtype, device=device, tokenizer=tokenizer)
    adapter = read_pointer(folder)["adapter"] if (folder / POINTER).is_file() else None
    if adapter is not None:
        if wrong := list(adapter_problems(key, folder / adapter)):
            raise UserError("\n".join(wrong))
        with sharded.unsharded():  # the adapter itself is small
            adapted = PeftModel.from_pretrained(model, str(folder / adapter))
        check_finite(f"{key}: {folder / adapter}", adapted)
        model = sharded.merge(adapted).eval()
    return model, tokenizer


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write model and tokenizer into the artifact folder `folder`, loadable by `AutoModelForCausalLM` alone.

    `state`: weights to write in place of the model's own.
    """
    model.generation_config = chat_config(model, tokenizer)
    with quiet():
        model.save_pretrained(folder / MODEL, state_dict=state)
    tokenizer.save_pretrained(folder / MODEL)


def save_adapter(policy: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a policy's adapter into the artifact folder `folder`, with the template in which it answers beside it."""
    policy.save_pretrained(folder / ADAPTER)
    tokenizer.save_pretrained(folder / ADAPTER)
    chat_config(policy.get_base_model(), tokenizer).save_pretrained(folder / ADAPTER)


def chat_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """How plain transformers, or a server, is to generate from `model`: it stops where responses end.

    The base's own sampling defaults (temperature, top_p …) are left out: they would hide in others' `generate` calls.
    """
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends_of(model, tokenizer).listed,
        pad_token_id=tokenizer.pad_token_id,
    )


def point_to(folder: Path, source: Source) -> dict[str, Any]:
    """Let the artifact folder `folder` point to the untouched model of `source`; a hub id is pinned to its commit.

    Whether the model may run Python of its own is not written down: the config of each run says so anew.
    """
    check_files(source, "causal")
    config = open_config(source)
    local = Path(source.path).expanduser().is_dir()
    origin = {
        "path": absolute(source.path),
        "revision": source.revision if local else getattr(config, "_commit_hash", None) or source.revision,
        "attention": source.attention,
        "untouched": True,
    }
    (folder / POINTER).write_text(json.dumps(origin, indent=2) + "\n")
    return origin


def point_to_adapter(folder: Path, base: Path) -> None:
    """Let the artifact folder `folder` point to the model of the artifact `base` with the adapter in `ADAPTER`."""
    source = source_of(base)
    origin = {
        "path": source.path, "revision": source.revision, "attention": source.attention, "untouched": not source.own,
        "adapter": ADAPTER,
    }  # fmt: skip
    (folder / POINTER).write_text(json.dumps(origin, indent=2) + "\n")
