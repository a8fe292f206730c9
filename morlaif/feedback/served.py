"""Which model a server really runs, from what it tells about itself.

A name is what its owner chose to call a model. What tells models apart differs by server: llama.cpp lists the size, the
vocabulary and the file of its weights, vLLM the folder or hub id behind a name (`root`), SGLang also a version of the
weights, Ollama a digest, Text Generation Inference a commit. A public API tells no more than the name, and the dated
form of it in each reply.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from morlaif.errors import suggest

Alias = tuple[str, ...] | Literal["any"] | None
Ask = Callable[[str], Any]  # a path from the server's root, such as "/props" -> the JSON there, or None

META = ("n_params", "size", "n_vocab", "vocab_type", "n_embd", "n_ctx_train", "ftype")  # of llama.cpp
DATED = r"-(\d{4}-\d{2}-\d{2}|\d{3,8})"  # gpt-x-2026-01-01, gpt-x-0613, model-x-001
AUTO = "auto"  # means the one model that a server lists
SHOWN = 6  # names of a long list that a message gives


@dataclass(frozen=True)
class Served:
    """What a server tells about the model that answers to a name."""

    name: str  # as the server calls it
    fingerprint: Mapping[str, Any]  # what tells it from others; empty: only the name does
    names: tuple[str, ...] = ()  # under which its replies may come
    slots: int | None = None  # requests that it works on at once, where it tells

    @property
    def id(self) -> str:
        """Stands in keys and digests: the name and a hash of the fingerprint; empty without any."""
        if not self.fingerprint:
            return ""
        digest = hashlib.sha256(json.dumps(dict(self.fingerprint), sort_keys=True, default=str).encode()).hexdigest()[
            :12
        ]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', bare(self.name)).strip('-')[:48] or 'model'}-{digest}"


class NotServed(Exception):
    """The server lists its models, and the one that is wanted is not among them."""


def find(models: Any, model: str, alias: Alias, ask: Ask) -> Served | None:
    """The model that answers to `model`, in the reply to `GET /models`; None: the list does not tell.

    Raises:
        NotServed: the server lists its models, and this one is not among them; with what it serves, in words.
    """
    entries, ask = _entries(models), cache(ask)
    if not entries:
        return None
    entry = _chosen(entries, model, alias)
    if entry is None:
        if alias == "any" or (model.startswith(("/", ".", "~")) and not _strict(entries)):
            return None  # one of several, or a folder that the server loads when it is asked
        raise NotServed(_listed(entries, model))
    fingerprint = _fingerprint(entry, ask)
    if not any(same(model, name) for name in _names(entry)):
        fingerprint["listed"] = entry["id"]  # an alias allows it, and may allow another one tomorrow
    return Served(entry["id"], fingerprint, tuple(_names(entry)), _slots(entry, ask))


def only(models: Any) -> str:
    """The name of the one model in the reply to `GET /models`.

    Raises:
        NotServed: there is none, or there are several.
    """
    entries = _entries(models)
    if len(entries) == 1:
        return entries[0]["id"]
    raise NotServed(
        f"{_listed(entries, '')} Name the one that is to judge." if entries else "lists no model. Name one."
    )


def same(asked: str, name: str) -> bool:
    """Whether `name` is `asked` or a dated form of it, but for a folder in front and a file's ending.

    >>> same("gpt-x", "gpt-x-2026-01-01"), same("qwen", "/models/qwen.gguf"), same("gpt-x", "gpt-x-mini")
    (True, True, False)
    """
    asked, name = _plain(asked), _plain(name)
    if asked == name:
        return True
    if asked.count("/") != name.count("/") and "/" not in min(asked, name, key=lambda text: text.count("/")):
        asked, name = asked.rpartition("/")[2], name.rpartition("/")[2]
    stem = re.escape(asked.removesuffix("-latest"))
    return asked == name or re.fullmatch(stem + DATED, name) is not None


def allows(model: str, alias: Alias, name: str) -> bool:
    """Whether a model called `name` may answer a question to `model`."""
    return alias == "any" or same(model, name) or any(same(other, name) for other in alias or ())


def bare(name: str) -> str:
    """Without the folders in front."""
    return name.rstrip("/").rpartition("/")[2]


def _plain(name: str) -> str:
    name = name.strip().rstrip("/").casefold()
    return re.sub(r"@[\w.-]+$", "", name.removesuffix(".gguf").removesuffix(":latest"))


def _entries(models: Any) -> list[dict[str, Any]]:
    listed = models.get("data") if isinstance(models, Mapping) else models
    return [
        entry for entry in (listed if isinstance(listed, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"].strip()
    ]  # fmt: skip


def _names(entry: Mapping[str, Any]) -> list[str]:
    aliases = entry.get("aliases")
    return [entry["id"], *(name for name in (aliases if isinstance(aliases, list) else ()) if isinstance(name, str))]


def _chosen(entries: Sequence[dict[str, Any]], model: str, alias: Alias) -> dict[str, Any] | None:
    """The entry of that very name, else one that the name or an alias fits, else the only one where any will do."""
    tests: list[Callable[[str], bool]] = [model.__eq__, partial(same, model)]
    tests += [partial(same, other) for other in (alias if isinstance(alias, tuple) else ())]
    for test in tests:
        for entry in entries:
            if any(test(name) for name in _names(entry)):
                return entry
    return entries[0] if alias == "any" and len(entries) == 1 else None


def _strict(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the server runs what it lists and nothing else."""
    return any(entry.get("owned_by") in ("llamacpp", "vllm", "sglang") for entry in entries)


def _fingerprint(entry: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    fingerprint: dict[str, Any] = {}
    meta, owner = entry.get("meta"), entry.get("owned_by")
    if _is_llama_cpp(entry):
        fingerprint |= {name: meta[name] for name in META if isinstance(meta, Mapping) and name in meta}
        props = ask("/props")
        if isinstance(props, Mapping):
            fingerprint |= _of_props(props)
    for name in ("root", "parent"):  # vLLM, SGLang
        if isinstance(entry.get(name), str) and entry[name] != entry["id"]:
            fingerprint[name] = entry[name]
    if owner == "sglang" and isinstance(info := ask("/get_model_info"), Mapping):
        fingerprint |= {name: info[name] for name in ("model_path", "weight_version") if info.get(name)}
    if owner == "library" or not (fingerprint or isinstance(owner, str)):  # Ollama
        fingerprint |= _of_tags(ask("/api/tags"), entry["id"])
    if owner == entry["id"] and isinstance(info := ask("/info"), Mapping):  # Text Generation Inference
        fingerprint |= {name: info[name] for name in ("model_id", "model_sha", "model_dtype") if info.get(name)}
    return fingerprint


def _is_llama_cpp(entry: Mapping[str, Any]) -> bool:
    meta = entry.get("meta")
    return entry.get("owned_by") == "llamacpp" or (isinstance(meta, Mapping) and "n_params" in meta)


def _slots(entry: Mapping[str, Any], ask: Ask) -> int | None:
    props = ask("/props") if _is_llama_cpp(entry) else None
    slots = props.get("total_slots") if isinstance(props, Mapping) else None
    return slots if isinstance(slots, int) and slots > 0 else None


def _of_props(props: Mapping[str, Any]) -> dict[str, Any]:
    """The weights' file, the adapters on them, and the template that words the questions."""
    fingerprint = {"path": props["model_path"]} if isinstance(props.get("model_path"), str) else {}
    if isinstance(template := props.get("chat_template"), str):
        fingerprint["template"] = hashlib.sha256(template.encode("utf-8", "replace")).hexdigest()[:12]
    generation = props.get("default_generation_settings")
    params = generation.get("params") if isinstance(generation, Mapping) else None
    if isinstance(params, Mapping) and params.get("lora"):
        fingerprint["lora"] = params["lora"]
    return fingerprint


def _of_tags(tags: Any, name: str) -> dict[str, Any]:
    listed = tags.get("models") if isinstance(tags, Mapping) else None
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and entry.get("digest") and same(name, str(entry.get("name"))):
            return {"digest": entry["digest"]}
    return {}


def _listed(entries: Sequence[Mapping[str, Any]], model: str) -> str:
    ids = [entry["id"] for entry in entries]
    names = dict.fromkeys([*ids, *(bare(name) for name in ids)])
    shown = ", ".join(f"'{id}'" for id in ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
    return f"serves {shown}.{suggest(model, names) if len(ids) > 1 else ''}"
