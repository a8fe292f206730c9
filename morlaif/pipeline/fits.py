"""What fits only where something else is otherwise: lengths within a model's positions, adapters on modules it has,
prompts to train on beside those to look at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from morlaif.config import Config
from morlaif.data.settings import ToyData
from morlaif.errors import UserError
from morlaif.files import read_json
from morlaif.models.headers import read_header
from morlaif.models.place import folder_of
from morlaif.models.settings import NoSFT, SampleResponses
from morlaif.preference.kinds import kind_of
from morlaif.settings import Settings

POSITIONS = ("max_position_embeddings", "n_positions")  # as config.json calls them


def fit_problems(config: Config, stages: set[str]) -> Iterator[str]:
    """A line for each setting that the model cannot follow. What its folder does not tell is not looked at."""
    path, scratch = config.model.path, config.model.scratch
    own = None if path is None else folder_of(path, config.model.revision)
    positions = scratch.max_positions if path is None and scratch else _positions(own)
    if "sft" in stages and not isinstance(config.sft, NoSFT):
        yield from _longer("sft.max_length", config.sft.max_length, positions)
    if "respond" in stages and isinstance(config.respond, SampleResponses):
        yield from _no_room("respond.max_new_tokens", config.respond.max_new_tokens, positions)
    learnt = list(_learners(config, stages))
    for key, settings in learnt:
        yield from _lengths(key, settings, positions)
    if any(key == "ppo" for key, _ in learnt):
        yield from _no_prompts(config)
    kind = kind_of(config.pm)
    base, held = kind.base, kind.footprint
    other = own if base is None else folder_of(base.path, base.revision)
    if "pm" in stages and kind.trains and held is not None:
        yield from _longer("pm.max_length", held.max_length, positions if base is None else _positions(other))
    adapted: list[tuple[str, Settings | None, Path | None]] = [
        *([("sft.lora", getattr(config.sft, "lora", None), own)] if "sft" in stages else []),
        *([("pm.lora", None if held is None else held.lora, other)] if "pm" in stages else []),
        *((key, settings, own) for key, settings in learnt),
    ]
    for key, lora, folder in adapted:
        modules = getattr(lora, "target_modules", None)
        if modules is not None and folder is not None:
            yield from _modules(f"{key}.target_modules", modules, folder)


def _learners(config: Config, stages: set[str]) -> Iterator[tuple[str, Settings]]:
    """The settings of the arms' methods that `stages` reach, each with its key, and those within them."""
    for name in dict.fromkeys(arm.method for arm in config.arms.chosen.values()):
        if name in stages and isinstance(group := getattr(config, name, None), Settings):
            yield from _within(name, group)


def _within(key: str, settings: Settings) -> Iterator[tuple[str, Settings]]:
    if getattr(settings, "kind", None) == "full":  # its adapter is none
        return
    yield key, settings
    for name in type(settings).model_fields:
        if isinstance(part := getattr(settings, name), Settings):
            yield from _within(f"{key}.{name}", part)


def _lengths(key: str, settings: Settings, positions: int | None) -> Iterator[str]:
    for name, check in (("max_new_tokens", _no_room), ("max_length", _longer)):
        if isinstance(length := getattr(settings, name, None), int):
            yield from check(f"{key}.{name}", length, positions)


def _longer(key: str, length: int, positions: int | None) -> Iterator[str]:
    if positions is not None and length > positions:
        yield f"{key}={length} exceeds the model's {positions} positions; give {positions} or less"


def _no_room(key: str, length: int, positions: int | None) -> Iterator[str]:
    if positions is not None and length >= positions:
        yield f"{key}={length} leaves no room for a prompt: the model has {positions} positions"


def _modules(key: str, wanted: str | Sequence[str], folder: Path) -> Iterator[str]:
    """By peft's own rule: a name is a module's, or the end of it after a dot; a text is a regular expression."""
    if wanted == "all-linear" or not (names := _names(folder)):
        return
    if isinstance(wanted, str):
        try:
            fits = any(re.fullmatch(wanted, name) for name in names)
        except re.error as error:
            yield f"{key}='{wanted}': no regular expression ({error}); give a list of names, or all-linear"
            return
        missing = [] if fits else [wanted]
    else:
        missing = [one for one in wanted if not any(f".{name}".endswith(f".{one}") for name in names)]
        missing = missing if len(missing) == len(wanted) else []  # peft wants one that fits
    if missing:
        known = sorted({name.rpartition(".")[2] for name in names if re.search(r"proj|attn|fc|mlp|dense|linear", name)})
        offers = f" It has {', '.join(known[:12])}." if known else ""
        yield f"{key}: the model has no module '{missing[0]}'.{offers} all-linear takes every linear one"


def _names(folder: Path) -> set[str]:
    """The modules that have weights."""
    try:
        if (index := folder / "model.safetensors.index.json").is_file():
            tensors = list(read_json(index, of=dict).get("weight_map") or ())
        else:
            tensors = list(read_header(folder / "model.safetensors"))
    except (UserError, OSError, TypeError):
        return set()
    return {name.rpartition(".")[0] for name in tensors}


def _positions(folder: Path | None) -> int | None:
    try:
        facts: dict[str, Any] = read_json(folder / "config.json", of=dict) if folder is not None else {}
    except UserError:
        return None
    found = next((facts[name] for name in POSITIONS if name in facts), None)
    return found if type(found) is int and found > 0 else None


def _no_prompts(config: Config) -> Iterator[str]:
    """Where the most training prompts that the data can have are no more than those that PPO only looks at."""
    data, held_out = config.data, config.ppo.eval_prompts
    if isinstance(data, ToyData):
        most, where = data.train, f"data.train={data.train}"
    elif data.limit is not None:
        held = data.eval_size if data.eval_size is not None else round(data.limit * (data.eval_fraction or 0.0))
        most, where = data.limit - held, f"data.limit={data.limit} less {held} of evaluation"
    else:
        return
    if held_out and held_out >= most:
        yield f"ppo.eval_prompts={held_out} leaves none of the {max(0, most)} training prompts ({where}) to train on"
