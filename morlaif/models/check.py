"""What a model folder's files say is wrong with it, one line each, before anything is loaded: no torch, no download."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from morlaif.errors import UserError, suggest
from morlaif.files import read_json, read_text
from morlaif.models.architectures import (
    CAUSAL,
    CLASSIFIER,
    MASKED,
    classes,
    knows_tokenizer,
    model_types,
    quantizations,
)
from morlaif.models.headers import read_header
from morlaif.models.place import POINTER, allowing, cached_folder, looks_local, offline, policy_place, read_pointer
from morlaif.models.sizes import generation_problems, size_problems, table_problems
from morlaif.models.vocabulary import SMALL, file_problems

Kind = Literal["causal", "trunk", "classifier", "policy"]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
OTHERS = {".gguf", ".h5", ".msgpack", ".onnx", ".npz"}
# One of these is what a tokenizer is made from.
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "source.spm",
    "vocab.json", "vocab.txt", "tekken.json", "bpe.codes", "prophetnet.tokenizer", "vocab.bpe",
)  # fmt: skip
_OBJECTS = (
    "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "vocab.json", "generation_config.json",
)  # fmt: skip
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def folder_problems(
    key: str,
    path: str | Path,
    trust_remote_code: bool = False,
    *,
    kind: Kind = "causal",
    revision: str | None = None,
    tokenizer: bool = True,
) -> Iterator[str]:
    """What is wrong with the model that the config's `key` names, as far as its files say: finished lines.

    Args:
        path: a folder, or a hub id, which is looked at where this machine has it already.
        trust_remote_code: whether this run allows the model to run Python of its own.
        kind: what it is to be: a causal language model; a trunk to put a score head on; a sequence classifier with
            one score; a policy, which may be a finished unit's folder.
        revision: of a hub id.
        tokenizer: whether the folder must hold one.
    """
    folder, where = Path(path).expanduser(), f"{key}={str(path)!r}"
    if not folder.is_dir():
        if wrong := list(place_problems(key, path, revision)):
            yield from wrong
            return
        if (cached := cached_folder(str(path), revision)) is None or kind == "policy":
            return
        folder = cached
    try:
        if kind == "policy":
            yield from _policy(key, where, folder, trust_remote_code)
        else:
            partly = folder != Path(path).expanduser() and not offline()  # the hub has what the cache lacks
            yield from _model(key, where, folder, trust_remote_code, kind, partly, tokenizer)
    except OSError as error:
        yield f"{where}: cannot be read: {error.strerror or error}"


def place_problems(key: str, path: str | Path, revision: str | None = None) -> Iterator[str]:
    """Why there is nothing to load at `path`, where that is plain without asking the hub."""
    folder, where = Path(path).expanduser(), f"{key}={str(path)!r}"
    if folder.is_dir():
        return
    if looks_local(path):
        yield _no_folder(where, folder)
    elif not _HUB_ID.fullmatch(str(path)):
        yield f"{where}: neither a folder nor a hub id such as owner/model"
    elif offline() and cached_folder(str(path), revision) is None:
        yield (
            f"{where}: no such folder here, the hub's cache does not have it, and HF_HUB_OFFLINE forbids asking "
            "the hub; give a folder, or fetch it first (hf download)"
        )


def _no_folder(where: str, folder: Path) -> str:
    if folder.is_file():
        gguf = "; a .gguf model is for a server (feedback=server)" if folder.suffix == ".gguf" else ""
        return f"{where}: is a file; give the folder in Hugging Face format (config.json, {WEIGHTS}, a tokenizer){gguf}"
    near = suggest(folder.name, (p.name for p in folder.parent.iterdir())) if folder.parent.is_dir() else ""
    return f"{where}: no such folder; give a folder with a config.json, or a hub id.{near}"


def _policy(key: str, where: str, folder: Path, trusted: bool) -> Iterator[str]:
    found = policy_place(folder)
    if found is None:
        yield f"{where}: no model in this folder (no config.json, model/ or {POINTER})"
    elif found != folder / POINTER:
        yield from _model(key, f"{key}={str(found)!r}", found, trusted, "causal")
    else:
        try:
            origin = read_pointer(folder)
        except UserError as error:
            yield f"{key}: {error}"
            return
        if origin.get("trust_remote_code") and not trusted:
            yield (
                f"{where}: its {POINTER} wants Python that comes with {origin['path']!r} to run, which only this run's "
                f"config can allow: {allowing(key)}, if you trust it"
            )
            return
        yield from folder_problems(key, origin["path"], trusted, revision=origin["revision"])
        if origin["adapter"] is not None:
            yield from adapter_problems(key, folder / origin["adapter"])


def _model(
    key: str, where: str, folder: Path, trusted: bool, kind: Kind, partly: bool = False, tokenizer: bool = True
) -> Iterator[str]:
    if (folder / ADAPTER_CONFIG).is_file():
        yield (
            f"{where}: holds a peft adapter ({ADAPTER_CONFIG}), which is no model by itself; merge it into its base "
            "(peft's merge_and_unload, then save_pretrained) and give the merged folder"
        )
        return
    if wrong := [] if partly and not (folder / "config.json").exists() else list(config_problems(key, folder)):
        yield from wrong
        return
    if not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json", of=dict)
    wrong = list(_architecture(key, where, config, trusted, kind))
    wrong = wrong or [f"{key}: {folder / 'config.json'}: {fault}" for fault in size_problems(config)]
    yield from wrong
    if not partly:
        wrong += (lacks := list(_weights(key, where, folder, config)))
        yield from lacks
    if not partly and not wrong:
        wrong += (odd := list(_tensors(where, folder, config)))
        yield from odd
    if tokenizer and not partly:
        wrong += (unfit := list(_tokenizer(key, where, folder, trusted, config)))
        yield from unfit
        if not wrong:
            rows = config.get("vocab_size")
            yield from (f"{where}: {fault}" for fault in file_problems(folder, rows if type(rows) is int else None))


def config_problems(key: str, folder: Path) -> Iterator[str]:
    """What is wrong with a folder's config.json as a file; nothing where there is no such folder."""
    if not folder.is_dir():
        return
    if not os.path.lexists(folder / "config.json"):
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "it is empty"
        yield f"{key}={str(folder)!r}: no config.json, so no model in Hugging Face format ({held})"
        return
    try:
        read_json(folder / "config.json", "a model's config, a JSON object", of=dict)
    except UserError as error:
        yield f"{key}: {error}"


def _architecture(key: str, where: str, config: dict[str, Any], trusted: bool, kind: Kind) -> Iterator[str]:
    model_type, names = config.get("model_type"), config.get("architectures") or []
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    remote = config.get("auto_map")
    own: dict[str, Any] = remote if isinstance(remote, dict) else {}
    wanted = "AutoModelForSequenceClassification" if kind in ("classifier", "trunk") else "AutoModelForCausalLM"
    attention = config.get("attn_implementation") or config.get("_attn_implementation")
    for part in attention.values() if isinstance(attention, dict) else (attention,):
        if isinstance(part, str) and "/" in part:
            yield f"{where}: its config.json wants code from {part!r} for attention; take attn_implementation out of it"
    if not isinstance(model_type, str) or not model_type:
        yield f"{where}: its config.json names no model_type (such as llama); it is no model's config"
        return
    known = model_types()
    if known and model_type not in known:
        if "AutoConfig" not in own:
            near = suggest(model_type, known, cutoff=0.8)
            yield f"{where}: its config.json says model_type {model_type!r}, which transformers does not know.{near}"
        elif not trusted:
            yield _wants_python(key, where)
        return
    if wanted in own and trusted:
        return
    if any(own.get(auto) for auto in ("AutoConfig", wanted)) and not _known_class(names, model_type):
        yield _wants_python(key, where)
        return
    yield from _purpose(where, config, model_type, names, kind)


def _wants_python(key: str, where: str, what: str = "model") -> str:
    return (
        f"{where}: its {what} runs only with Python that comes with it (auto_map in its files), which this run does "
        f"not allow; {allowing(key)} does, if you trust it"
    )


def _known_class(names: list[str], model_type: str) -> bool:
    every = {made for table in (CAUSAL, MASKED, CLASSIFIER) for own in classes(table).values() for made in own}
    return any(name in every for name in names) if names else model_type in classes(CAUSAL)


def _purpose(where: str, config: dict[str, Any], model_type: str, names: list[str], kind: Kind) -> Iterator[str]:
    """An encoder, say, where a causal language model is wanted: it would load, and be something else."""
    causal, scored = classes(CAUSAL), classes(CLASSIFIER)
    if not causal or not scored:
        return
    named = f"{model_type!r} ({', '.join(names)})" if names else repr(model_type)
    if kind == "classifier":
        if model_type not in scored or (names and not any(n.endswith("ForSequenceClassification") for n in names)):
            writes = any(n.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for n in names)
            hint = "; one that writes its verdict is a judge: feedback=hf or reward=judge" if writes else ""
            yield f"{where}: is {named}; expected a trained reward model, a sequence classifier{hint}"
        return
    # what a masked language model's class builds too is a decoder only where its config says so
    masked = model_type in classes(MASKED) and not {"BartForCausalLM", "MBartForCausalLM", "MvpForCausalLM"} & set(
        names
    )
    decodes = config.get("is_decoder") is True or (model_type == "xlm" and config.get("causal") is True)
    fits = {made for own in causal.values() for made in own}
    if kind == "trunk":
        fits |= {made for name, own in scored.items() for made in own if name in causal}
    if model_type not in causal or (names and not fits & set(names)) or (masked and not decodes):
        yield (
            f"{where}: is {named}, not a causal language model; expected a decoder, an architecture such as "
            "LlamaForCausalLM or GPT2LMHeadModel"
        )
    elif config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        yield f"{where}: {named} with attention to both sides, not a causal language model"
    elif kind == "trunk" and model_type not in scored:
        yield (
            f"{where}: {named} has no sequence classifier in transformers, which preference models are; take another "
            "base"
        )


def _weights(key: str, where: str, folder: Path, config: dict[str, Any]) -> Iterator[str]:
    explicit = config.get("transformers_weights")
    if explicit is not None and explicit not in (WEIGHTS, INDEX):
        yield f"{where}: its config.json names the weights {explicit!r}; expected {WEIGHTS}, or {INDEX} with its shards"
        return
    if (folder / WEIGHTS).exists() and explicit != INDEX:
        yield from safetensors_problems(key, folder / WEIGHTS)
    elif (folder / INDEX).exists():
        yield from _shards(key, where, folder)
    else:
        yield _no_safetensors(where, folder, WEIGHTS)


def _no_safetensors(where: str, folder: Path, wanted: str) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    pickled = [name for name in names if Path(name).suffix in PICKLES and name != "training_args.bin"]
    other = [name for name in names if Path(name).suffix in OTHERS or name.endswith(".safetensors")]
    if any(re.fullmatch(r"(pytorch|adapter)_model.*\.bin", name) for name in pickled):
        return (
            f"{where}: holds its weights as {pickled[0]} alone, a format that can hold code; only safetensors are "
            f"loaded. Convert it: python -m morlaif.models.convert {shlex.quote(str(folder))}"
        )
    if pickled:
        return (
            f"{where}: holds its weights as {pickled[0]} alone, a format that can hold code; only safetensors are "
            f"loaded. Load it where it was made and save it with save_pretrained, which writes {wanted}"
        )
    if other:
        return f"{where}: holds its weights as {other[0]}; expected {wanted} (or an index with its shards)"
    return f"{where}: no weights in this folder; expected {wanted} (or an index with its shards)"


def _shards(key: str, where: str, folder: Path) -> Iterator[str]:
    try:
        listed = read_json(folder / INDEX, "an index of shards", of=dict).get("weight_map")
    except UserError as error:
        yield f"{key}: {error}"
        return
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        yield f"{key}: {folder / INDEX}: expected a weight_map of tensor names to files; copy the folder again"
        return
    shards = sorted(set(listed.values()))
    if odd := [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]:
        yield f"{key}: {folder / INDEX}: names {odd[0]!r}; expected .safetensors files beside it"
        return
    if missing := [name for name in shards if not (folder / name).is_file()]:
        yield f"{where}: {len(missing)} of {len(shards)} shards missing, {missing[0]} among them; copy the folder again"
    for name in shards:
        if name in missing:
            continue
        wrong = list(safetensors_problems(key, folder / name))
        yield from wrong
        if not wrong:
            held = read_header(folder / name)
            lost = [tensor for tensor, file in listed.items() if file == name and tensor not in held]
            if lost:
                yield f"{key}: {folder / name}: lacks the tensor {lost[0]!r} of {INDEX}; copy the folder again"


def _tensors(where: str, folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """What the headers of sound files say of the weights: numbers that are no weights, another model's table."""
    declared = config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    if declared and (method is None or (quantizations() and method not in quantizations())):
        yield (
            f"{where}: its config.json has a quantization_config of the quant_method {method!r}, which transformers "
            "does not know; take the model that is not quantized"
        )
        return
    single = (folder / WEIGHTS).exists()
    files = [folder / WEIGHTS] if single else sorted({folder / name for name in _listed(folder).values()})
    held = {name: facts for file in files for name, facts in read_header(file).items()}
    if not declared:
        for name, facts in held.items():
            if name.endswith(".weight") and facts["dtype"] not in ("F64", "F32", "F16", "BF16"):
                yield (
                    f"{where}: its weight {name!r} is of the type {facts['dtype']}, and its config.json has no "
                    "quantization_config that says how to read it; take the model that is not quantized"
                )
                return
        yield from (f"{where}: {fault}" for fault in table_problems(config, {n: f["shape"] for n, f in held.items()}))


def _listed(folder: Path) -> dict[str, str]:
    return read_json(folder / INDEX, of=dict)["weight_map"]


def safetensors_problems(key: str, file: Path) -> Iterator[str]:
    """Whether a file of safetensors is whole, by its header and its size."""
    try:
        read_header(file)
    except UserError as error:
        yield f"{key}: {error}"
    except OSError as error:
        yield f"{key}: {file}: cannot be read: {error.strerror or error}"


def adapter_problems(key: str, folder: Path) -> Iterator[str]:
    """What is wrong with a peft adapter that this project trained."""
    where = f"{key}: {folder}"
    if not folder.is_dir():
        yield f"{where}: the adapter's folder is missing; build the unit again"
        return
    try:
        config = read_json(folder / ADAPTER_CONFIG, "a peft adapter's config", of=dict)
        check_adapter_config(config, folder / ADAPTER_CONFIG)
    except UserError as error:
        yield f"{key}: {error}"
        return
    if not (folder / ADAPTER_WEIGHTS).is_file():
        yield _no_safetensors(where, folder, ADAPTER_WEIGHTS)
    else:
        yield from safetensors_problems(key, folder / ADAPTER_WEIGHTS)


def check_adapter_config(config: dict[str, Any], file: Path) -> None:
    """An adapter is data: nothing in its config may choose code to import.

    Raises:
        UserError: it does, or it is no LoRA.
    """
    if config.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type is {config.get('peft_type')!r}; expected LORA")
    mapping = config.get("auto_mapping") or {"parent_library": "transformers"}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if str(library).partition(".")[0] != "transformers":
        raise UserError(f"{file}: auto_mapping is {config['auto_mapping']!r}; expected a plain LoRA without it")
    for name in ("megatron_config", "corda_config", "eva_config", "loftq_config"):
        if config.get(name):
            raise UserError(f"{file}: {name} is {config[name]!r}; expected a plain LoRA without it")
    if config.get("megatron_core", "megatron.core") not in (None, "megatron.core"):
        raise UserError(f"{file}: megatron_core is {config['megatron_core']!r}; expected a plain LoRA without it")


def _tokenizer(key: str, where: str, folder: Path, trusted: bool, config: dict[str, Any]) -> Iterator[str]:
    settings: dict[str, Any] = {}
    for name in _OBJECTS:
        file = folder / name
        if not file.exists():
            continue
        if file.is_file() and file.stat().st_size > SMALL:
            if not _ends_whole(file):
                yield f"{key}: {file}: breaks off in the middle (half copied?); copy it again"
            continue
        try:
            value = read_json(file, "a JSON object", of=dict)
        except UserError as error:
            yield f"{key}: {error}"
            continue
        if name == "tokenizer_config.json":
            settings = value
        elif name == "generation_config.json":
            yield from (f"{key}: {file}: {fault}" for fault in generation_problems(value))
    own = settings.get("auto_map") if isinstance(settings.get("auto_map"), dict) else config.get("auto_map")
    brings = isinstance(own, dict) and own.get("AutoTokenizer")
    named = settings.get("tokenizer_class")
    if named is not None and not brings and not (isinstance(named, str) and knows_tokenizer(named)):
        file = folder / "tokenizer_config.json"
        yield (
            f"{key}: {file}: tokenizer_class is {named!r}, which transformers does not know; name one that it does "
            "(such as PreTrainedTokenizerFast for a tokenizer.json), or take it out"
        )
    bytewise = str(settings.get("tokenizer_class", "")).startswith(("ByT5", "Canine", "MyT5", "Perceiver"))
    if not any((folder / name).is_file() for name in VOCABULARIES) and not list(folder.glob("*.tiktoken")):
        if brings and not trusted:
            yield _wants_python(key, where, "tokenizer")
        elif not brings and not bytewise:
            yield f"{where}: no tokenizer in this folder; expected tokenizer.json, or the vocabulary it is made from"
    yield from _templates(key, folder, settings)


def _ends_whole(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(64)
        stream.seek(-64, os.SEEK_END)
        return head.lstrip()[:1] == b"{" and stream.read().rstrip()[-1:] == b"}"


def _templates(key: str, folder: Path, settings: dict[str, Any]) -> Iterator[str]:
    found: dict[str, Any] = {}
    for file in (folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja"))):
        if file.is_file():
            try:
                found[str(file)] = read_text(file, "a chat template")
            except UserError as error:
                yield f"{key}: {error}"
    inside = f"{folder / 'tokenizer_config.json'}: chat_template"
    stored = settings.get("chat_template")
    if isinstance(stored, list):
        for number, part in enumerate(stored):
            found[f"{inside}[{number}]"] = part.get("template") if isinstance(part, dict) else part
    elif stored is not None:
        found[inside] = stored
    if found:
        from morlaif.data.template import template_fault
    for where, template in found.items():
        if not isinstance(template, str):
            yield f"{key}: {where}: is {type(template).__name__}; expected a text"
        elif (fault := template_fault(template)) is not None:
            yield f"{key}: {where}: not a chat template: {fault}"
