"""Models and tokenizers from a folder or a hub: with a pad token of their own, a chat template, and room for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from morlaif import sharded
from morlaif.data.chat import prepare_tokenizer
from morlaif.errors import UserError

MODEL = "model"  # folder of the model inside the artifact of `sft` …
POINTER = "model.json"  # … or the file that names the untouched base …
ADAPTER = "adapter"  # … on which, if it is there, the peft adapter in this folder sits


def load_tokenizer(
    path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a dedicated pad token and a chat template.

    Raises:
        UserError: there is none at `path`, or it has no EOS token.
    """
    _check_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise _cannot_load("tokenizer", path, revision, error) from error
    prepare_tokenizer(tokenizer)
    return tokenizer


def load_causal_lm(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    attention: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """The causal LM at `path` in eval mode, its embeddings grown if `tokenizer` (default: its own) needs more rows.

    Raises:
        UserError: there is no such model.
    """
    _check_folder(path)
    if tokenizer is None:
        tokenizer = load_tokenizer(path, revision=revision, trust_remote_code=trust_remote_code)
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path), revision=revision, dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load("causal language model", path, revision, error) from error
    fit_to_tokenizer(model, tokenizer)
    if not any(map(sharded.is_sharded, model.parameters())):  # else DeepSpeed has put each part where it belongs
        model.to(device)
    return model.eval()


def fit_to_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Grow the embeddings to the tokenizer's size, in place, and name its pad token in the configs.

    A new row is the mean of the old ones, so that the new token is neither likely nor, in tied models, a wild logit;
    transformers would draw it at random, and two loads of one model would differ.
    """
    old = sharded.shape(model.get_input_embeddings().weight)[0]
    if len(tokenizer) > old:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            with sharded.gathered([layer.weight], change=True), torch.no_grad():
                layer.weight[old:] = layer.weight[:old].mean(0)
    sharded.split(model)
    for config in (model.config, model.generation_config):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id


def resolve_model(folder: Path) -> tuple[str, str | None]:
    """Path (or hub id) and revision of the model that the artifact of `sft` in `folder` stands for."""
    origin = _origin(folder)
    return origin["path"], origin["revision"]


def load_policy(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of the artifact of `sft` in `folder`; remote code runs only if its run agreed."""
    origin = _origin(folder)
    path, options = origin["path"], {key: origin[key] for key in ("revision", "trust_remote_code")}
    tokenizer = load_tokenizer(path, **options)
    model = load_causal_lm(
        path, **options, dtype=dtype, device=device, attention=origin["attention"], tokenizer=tokenizer
    )
    if origin["adapter"] is not None:
        with sharded.unsharded():  # the adapter itself is small
            adapted = PeftModel.from_pretrained(model, str(Path(folder) / origin["adapter"]))
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
    # The base's own sampling defaults (temperature, top_p …) would hide in `generate` calls of whoever loads it.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.save_pretrained(folder / MODEL, state_dict=state)
    tokenizer.save_pretrained(folder / MODEL)


def point_to(
    folder: Path, path: str, *, revision: str | None, trust_remote_code: bool, attention: str | None
) -> dict[str, Any]:
    """Let the artifact folder `folder` stand for the untouched model at `path`; a hub id is pinned to its commit."""
    _check_folder(path)
    local = Path(path).is_dir()
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise _cannot_load("causal language model", path, revision, error) from error
    origin = {
        "path": str(Path(path).resolve()) if local else path,
        "revision": revision if local else getattr(config, "_commit_hash", None) or revision,
        "trust_remote_code": trust_remote_code,
        "attention": attention,
    }
    (folder / POINTER).write_text(json.dumps(origin, indent=2) + "\n")
    return origin


def point_to_adapter(folder: Path, base: Path) -> None:
    """Let the artifact folder `folder` stand for the model of the artifact `base` with the adapter in `ADAPTER`."""
    (folder / POINTER).write_text(json.dumps(_origin(base) | {"adapter": ADAPTER}, indent=2) + "\n")


def _origin(folder: Path) -> dict[str, Any]:
    folder = Path(folder)
    own = {
        "path": str(folder / MODEL), "revision": None, "trust_remote_code": False, "attention": None, "adapter": None,
    }  # fmt: skip
    if (folder / POINTER).is_file():
        origin = own | json.loads((folder / POINTER).read_text())
        # A base in the same store lies where it did relative to this artifact, even if the store has moved.
        beside = folder.resolve().parent.parent.joinpath(*Path(origin["path"]).parts[-3:])
        if origin["adapter"] and not Path(origin["path"]).exists() and beside.is_dir():
            origin["path"] = str(beside)
        return origin
    if (folder / MODEL / "config.json").is_file():
        return own
    raise UserError(f"{folder}: no model here, neither a folder '{MODEL}' nor a file '{POINTER}'")


def _check_folder(path: str | Path) -> None:
    """A path that is plainly a folder must exist: else transformers would ask a hub for it."""
    text = str(path)
    looks_local = isinstance(path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1
    if not looks_local:
        return
    if not Path(path).is_dir():
        raise UserError(f"model folder {text!r} does not exist; give a folder with a config.json, or a hub id")
    if not (Path(path) / "config.json").is_file():
        raise UserError(f"model folder {text!r} has no config.json: it is not a Hugging Face model")


def _cannot_load(what: str, path: str | Path, revision: str | None, error: Exception) -> UserError:
    at = f" at revision {revision!r}" if revision else ""
    reason = " ".join(str(error).split())[:300]
    return UserError(f"model.path {str(path)!r}{at}: cannot load a {what}: {reason}")
