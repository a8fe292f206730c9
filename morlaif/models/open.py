"""The one place where models and tokenizers are read from folders and hubs: safetensors alone, no code but what this
run allows, and every weight there, of its shape, and finite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as hf_logging

from morlaif import sharded
from morlaif.data.template import template_fault
from morlaif.errors import MACHINE, MachineError, UserError, of_system
from morlaif.models.check import Kind, config_problems, folder_problems, place_problems
from morlaif.models.place import Source, allowing, folder_of, offline
from morlaif.models.resident import map_large_tensors
from morlaif.models.vocabulary import file_problems, vocabulary_fault

Made = TypeVar("Made")
WORDS: dict[Kind, str] = {
    "causal": "causal language model", "trunk": "sequence classifier", "classifier": "sequence classifier",
}  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without bars, and without its report that one head is unused and the other new."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def open_config(source: Source) -> PreTrainedConfig:
    """Raises `UserError`."""
    for line in config_problems(source.key, Path(_place(source))):
        raise UserError(line)
    config = _tried(source, "model's config", lambda: AutoConfig.from_pretrained(_place(source), **_rights(source)))
    attention = getattr(config, "_attn_implementation", None)
    if source.attention is None and isinstance(attention, str) and "/" in attention:
        raise UserError(f"{source.where}: its config.json wants code from {attention!r} for attention")
    return config


def open_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Raises `UserError`: there is none, or its chat template is none."""
    for line in config_problems(source.key, Path(_place(source))):
        raise UserError(line)
    place, rights = _place(source), _rights(source)
    with quiet():
        tokenizer = _tried(source, "tokenizer", lambda: AutoTokenizer.from_pretrained(place, **rights))
    for template in _templates(tokenizer):
        if (fault := template_fault(template, **tokenizer.special_tokens_map)) is not None:
            raise UserError(f"{source.where}: its tokenizer's chat template is none: {fault}")
    folder = folder_of(place, source.revision)
    for fault in file_problems(folder, None, tokenizer.get_vocab()) if folder is not None else ():
        raise UserError(f"{source.where}: {fault}")
    return tokenizer


def open_model(
    auto: Any, source: Source, kind: Kind, *, dtype: torch.dtype, new: Sequence[str] = ()
) -> PreTrainedModel:
    """The model of `source` as transformers' auto class `auto` makes it.

    Args:
        new: beginnings of the names of weights that need not be there, such as those of a head that is yet to be drawn.

    Raises:
        UserError: it is not there, is none of this `kind`, or one of its weights is missing, misshapen or not finite.
    """
    place = _place(source)
    if Path(place).is_dir():
        check_files(source, kind)
    elif _tried(source, "model", lambda: find_adapter_config_file(place, revision=source.revision)) is not None:
        raise UserError(f"{source.where}: holds a peft adapter, which would load another model; merge it into its base")
    config = open_config(source)
    check_files(source, kind)  # of a hub id, what has come by now
    if kind == "trunk":
        config.num_labels = 1
    options = {} if source.attention is None else {"attn_implementation": source.attention}

    def load() -> tuple[PreTrainedModel, dict[str, Any]]:
        with quiet():
            return auto.from_pretrained(
                place, **_rights(source), config=config, dtype=dtype, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True, **options,
            )  # fmt: skip

    model, facts = _tried(source, WORDS[kind], load)
    _check_complete(source, facts, new)
    _check_layers(source, model, facts["unexpected_keys"])
    check_finite(source.where, model)
    map_large_tensors(sharded.count(model))
    return model


def check_files(source: Source, kind: Kind) -> None:
    """Raises `UserError`, a line for each problem that the files show without being loaded."""
    wrong = folder_problems(
        source.key, source.path, source.trust_remote_code, kind=kind, revision=source.revision, tokenizer=False
    )
    if lines := list(wrong):
        raise UserError("\n".join(lines))


def check_finite(where: str, model: nn.Module) -> None:
    """Raises `UserError`, naming the tensor, where a weight is NaN or infinite. Of weights in parts, this rank's."""
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if "mask" not in name)  # these may hold -inf
    for name, tensor in (*model.named_parameters(), *buffers):
        values = getattr(tensor, "ds_tensor", tensor).detach()
        if not values.is_floating_point() or values.is_meta or not values.numel():
            continue
        low, high = torch.aminmax(values)  # either is NaN where one value is
        if not (torch.isfinite(low) and torch.isfinite(high)):
            count = int((~torch.isfinite(values)).sum())
            raise UserError(
                f"{where}: {count:,} of {values.numel():,} values of its weight '{name}' are not finite in "
                f"{str(values.dtype).removeprefix('torch.')}; take a sound copy, or a wider number format"
            )


def check_vocabulary(where: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """How many rows of embeddings the tokenizer needs of a model that has `rows`: these, or more for its pad token.

    Raises:
        UserError: a token that may be read has no row, or shares its id with another.
    """
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder.values()
    unread = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    unread -= {tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token}
    # What the chat template writes is read in every dialogue: a row that nobody trained would change all numbers.
    written = {token for token in unread if any(token in template for template in _templates(tokenizer))}
    unread -= written - {tokenizer.pad_token}
    if (fault := vocabulary_fault(vocabulary.items(), rows, unread)) is not None:
        raise UserError(f"{where}: {fault}")
    return max(rows, max(vocabulary.values()) + 1)


def _templates(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    found = tokenizer.chat_template
    return [one for one in (found.values() if isinstance(found, dict) else [found]) if one is not None]


def check_causal(source: Source, model: PreTrainedModel) -> None:
    """Raises `UserError` where what comes later in a text changes what is thought of what came before."""
    if source.own or any(map(sharded.is_sharded, model.parameters())):
        return
    vocabulary = model.get_input_embeddings().weight.shape[0]
    row = [(7 * i + 3) % vocabulary for i in range(5)]
    ids = torch.tensor([row, [*row[:-1], (row[-1] + 1) % vocabulary]], device=model.device)
    with torch.inference_mode():
        states: Tensor = model.base_model(input_ids=ids, use_cache=False)[0][:, :-1].float()
    noise = 1e-4 if model.dtype == torch.float32 else 2e-2
    if (states[0] - states[1]).abs().max() > noise * states.abs().max():
        raise UserError(
            f"{source.where}: {type(model).__name__} reads what follows a token too; expected a causal language model"
        )


def _check_complete(source: Source, facts: dict[str, Any], new: Sequence[str]) -> None:
    missing = sorted(name for name in facts["missing_keys"] if not name.startswith(tuple(new)))
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(f"{source.where}: its files hold no weights for {some}; they would be drawn at random")
    for name, found, wanted in sorted(facts["mismatched_keys"], key=str):
        if not name.startswith(tuple(new)):
            raise UserError(
                f"{source.where}: its weight '{name}' is {_shape(found)}, and its config.json wants {_shape(wanted)}; "
                "weights and config belong to different models"
            )
    if facts.get("error_msgs"):
        raise UserError(f"{source.where}: {' '.join(str(facts['error_msgs'][0]).split())[:300]}")


def _check_layers(source: Source, model: PreTrainedModel, unused: Iterable[str]) -> None:
    """Raises `UserError` where the files hold more layers than the config: the model would be another, cut short."""
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for name in sorted(unused):
        found = re.match(rf"(?:{re.escape(model.base_model_prefix)}\.)?(?:layers|h|blocks)\.(\d+)\..*weight$", name)
        if found and isinstance(layers, int) and int(found[1]) >= layers:
            raise UserError(
                f"{source.where}: its files hold a layer {found[1]} ('{name}'), and its config.json has {layers} layers"
            )


def _shape(shape: Any) -> str:
    return " by ".join(map(str, shape)) or "a number"


def _rights(source: Source) -> dict[str, Any]:
    return {"revision": source.revision, "trust_remote_code": source.trust_remote_code}


def _place(source: Source) -> str:
    folder = Path(source.path).expanduser()
    return str(folder) if folder.is_dir() else source.path


def _tried(source: Source, what: str, load: Callable[[], Made]) -> Made:
    """What `load` gives; whatever a model's files can make transformers raise becomes one line."""
    for line in place_problems(source.key, source.path, source.revision):
        raise UserError(line)
    try:
        return load()
    except (UserError, MachineError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise of_system(error) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "trust_remote_code" in reason:
            reason = f"it runs only with Python that comes with it; {allowing(source.key)} allows that, if you trust it"
        if "couldn't connect to" in reason and not offline():
            raise MachineError(f"{source.where}: cannot load a {what}: {reason}") from error
        raise UserError(f"{source.where}: cannot load a {what}: {reason}") from error
