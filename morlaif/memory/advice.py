"""The smallest change under which a stage would fit: by trying changes, those that cost least first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import yaml

from morlaif.config import Config
from morlaif.errors import UserError
from morlaif.memory.estimate import StageMemory, fits

Measure = Callable[[Config], StageMemory | None]  # the stage under a changed config
MOST = 3  # changes together
SIZES = ("batch_size", "micro_batch_size", "max_length", "gradient_checkpointing")

# Where each stage keeps what can be made smaller: its checkpointing, and its rows at once.
CHECKPOINTING = {
    "sft": "sft.gradient_checkpointing", "pm": "pm.gradient_checkpointing", "ppo": "ppo.policy.gradient_checkpointing",
}  # fmt: skip
ROWS = {
    "sft": ("sft.micro_batch_size",), "pm": ("pm.micro_batch_size",),
    "ppo": ("ppo.micro_batch_size", "ppo.generation_batch_size"), "respond": ("respond.batch_size",),
    "weigh": ("weights.batch_size",), "evaluate": ("eval.batch_size",),
}  # fmt: skip


def advise(config: Config, stage: str, measure: Measure) -> list[list[str]]:
    """Ways in which `stage` fits, each a list of overrides: one that keeps the method, one that changes it.

    The first is for this machine, or else for a larger one.
    A single change where one is enough, else few together; none where none of these help.
    """
    same, other = list(_same_method(config, stage)), list(_other_method(config, stage))
    ways = [_search(config, same, measure) or _search(config, [*_machines(config), *same], measure)]
    ways.append(_search(config, [*other, *same], measure) if other else None)
    return [way for way in ways if way is not None]


def _search(config: Config, changes: list[str], measure: Measure) -> list[str] | None:
    for change in changes:
        if _fits([change], config, measure):
            return [change]
    taken: list[str] = []
    for change in changes:  # the first that help together; then leave out those that were not needed
        key = change.split("=")[0]
        taken = [other for other in taken if other.split("=")[0] != key] + [change]
        if _fits(taken, config, measure):
            for other in list(taken):
                rest = [one for one in taken if one != other]
                if _fits(rest, config, measure):
                    taken = rest
            return taken if len(taken) <= MOST else None
    return None


def _same_method(config: Config, stage: str) -> Iterator[str]:
    """Changes of no result, cheapest first."""
    key = CHECKPOINTING.get(stage)
    if key is not None and not _get(config, key):
        yield f"{key}=true"
    for key in ROWS.get(stage, ()):
        size = _get(config, key) or _get(config, key.replace("micro_", ""))
        while (size := size // 2) >= 1:
            yield f"{key}={size}"
    if stage == "pm" and getattr(config.pm, "joint", 1) > 1:
        yield "pm.joint=1"
    hardware = config.hardware
    if hardware.device == "cpu":
        return
    if hardware.dtype == "float32":
        yield "hardware.dtype=bfloat16"
    if hardware.ranks > 1:
        if hardware.zero.stage == 3 and hardware.zero.gather_to_sample > 0:
            yield "hardware.zero.gather_to_sample=0"
        if hardware.zero.stage < 3:
            yield "hardware.zero.stage=3"
        if not hardware.zero.offload_optimizer:
            yield "hardware.zero.offload_optimizer=true"
        if not hardware.zero.offload_parameters:
            yield "hardware.zero.offload_parameters=true"


def _machines(config: Config) -> Iterator[str]:
    if config.hardware.device != "cpu":
        for preset in ("gpu", "a100x8_zero2", "a100x8_zero3_lora", "a100x8_zero3_offload", "multinode_zero3"):
            yield f"hardware={preset}"


def _other_method(config: Config, stage: str) -> Iterator[str]:
    """Less that learns."""
    if stage in ("sft", "pm") and not hasattr(getattr(config, stage), "lora"):
        yield f"{stage}=lora"
    if stage == "ppo" and config.ppo.critic.kind == "separate":
        yield "ppo.critic.kind=shared"
    if stage == "ppo" and config.ppo.policy.kind == "full":
        yield "ppo.policy.kind=lora"


def _fits(changes: list[str], config: Config, measure: Measure) -> bool:
    try:
        changed = apply(config, changes)
        memory = measure(changed)
    except UserError:  # a combination that no run would accept
        return False
    return memory is None or fits(memory, changed.hardware)


def apply(config: Config, changes: list[str]) -> Config:
    """`config` under overrides `key=value` or `group=option`.

    Raises:
        UserError: the result does not validate.
    """
    from morlaif.config import validate

    tree = config.model_dump(mode="json")
    for change in changes:
        key, _, text = change.partition("=")
        *path, last = key.split(".")
        if not path:
            _set_group(tree, key, text)
            continue
        place = tree
        for part in path:
            place = place[part]
        place[last] = yaml.safe_load(text)
    return validate(tree)


def _set_group(tree: dict[str, Any], group: str, option: str) -> None:
    """An option of a group; sizes that an experiment has set stay as they are."""
    preset = yaml.safe_load(files("morlaif.conf").joinpath(group, f"{option}.yaml").read_text())
    tree[group] = preset | {key: tree[group][key] for key in SIZES if key in preset and key in tree[group]}


def _get(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
