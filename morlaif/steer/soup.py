"""Soups: policies that were trained from one SFT model, merged by weights (rewarded soups, arXiv 2306.04488).

What is merged is the artifact of a policy: a whole model, or a LoRA adapter that a pointer puts on its base. Weights
are read and written tensor by tensor, so a merge takes no more memory than one file of a model's weights.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from morlaif.dotted import find
from morlaif.errors import UserError
from morlaif.models.load import ADAPTER, MODEL
from morlaif.models.place import POINTER, read_pointer
from morlaif.steer.front import Merge, SoupSettings

# Weights for a tensor by where it lies: 0 at the embeddings, 1 at the head, layers between. They sum to one, too.
ByDepth = Callable[[float, Sequence[float]], Sequence[float]]
TOLERANCE = 1e-6  # by which weights may miss one
_INDEX = "model.safetensors.index.json"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SUFFIXES = (".lora_A.weight", ".lora_B.weight")


def merge_policies(
    folders: Sequence[Path],
    weights: Sequence[float],
    out: Path,
    *,
    merge: Merge = "delta",
    by_depth: ByDepth | None = None,
) -> None:
    """Write into `out` the artifact of the policy between those in `folders`, loadable as each of them is.

    Whole models: the mean of their weights, by `weights`. Adapters: by `merge`.

    - `delta`: the mean of their updates B·A, exactly: ranks are concatenated, as by peft's `cat`.
    - `factors`: the means of A and of B apart, which keeps the rank and is not the same: (A₁+A₂)(B₁+B₂)/4 has the
      products of unlike factors too.

    With all weight on one policy the merge is that policy, bit for bit.

    Args:
        weights: (K,), none below zero, which sum to one.
        by_depth: other weights for each layer, from its depth in [0, 1] and `weights`; see `depth_of`.

    Raises:
        UserError: weights that are none, or policies that are not of one form.
    """
    folders = [Path(folder) for folder in folders]
    _check(weights, len(folders), "weights")
    alone = [k for k, weight in enumerate(weights) if weight == 1]
    adapters = [(folder / POINTER).is_file() for folder in folders]
    if any(adapters) and not all(adapters):
        whole = folders[adapters.index(False)]
        raise UserError(f"{whole}: a whole model, and others to merge are adapters; leave all in one form")
    if alone and by_depth is None:
        _copy(folders[alone[0]], out)
    elif all(adapters):
        _merge_adapters(folders, weights, out, merge, by_depth)
    else:
        _merge_models(folders, weights, out, by_depth)


def merge_by(settings: SoupSettings, folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """`merge_policies` as the settings of a front say."""
    named = settings.by_depth
    by_depth = find(named, "front.soup.by_depth", "morlaif", "module.function") if named else None
    merge_policies(folders, weights, out, merge=settings.merge, by_depth=by_depth)


def _copy(folder: Path, out: Path) -> None:
    """The policy of an artifact, without its curves, its samples and others that it kept."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (MODEL, ADAPTER):
        if (folder / name).is_dir():
            shutil.copytree(folder / name, out / name, dirs_exist_ok=True)
    if (folder / POINTER).is_file():
        shutil.copyfile(folder / POINTER, out / POINTER)


def depth_of(name: str, layers: int) -> float:
    """Where a tensor lies: 0 the embeddings, (i + ½) / layers for the i-th layer, 1 what comes after the layers."""
    if (layer := _layer(name)) is not None:
        return (layer + 0.5) / layers
    return 0.0 if re.search(r"emb|wte|wpe", name) else 1.0


def _layer(name: str) -> int | None:
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wₖ · tensorₖ in the dtype of the first, summed with 64 bits, so that equal tensors give themselves back.

    A tensor of weight zero is not read; one of weight one is given back as it is.
    """
    parts = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight]
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, weight in parts:
        total.add_(tensor.double(), alpha=weight)
    return total.to(tensors[0].dtype)


# --- whole models ---------------------------------------------------------------------------------------------------


def _merge_models(folders: Sequence[Path], weights: Sequence[float], out: Path, by_depth: ByDepth | None) -> None:
    with ExitStack() as stack:
        models = [_Tensors(folder / MODEL, stack) for folder in folders]
        first = models[0]
        for other in models[1:]:
            first.check_like(other)
        of = _by_layer(weights, by_depth, first.files)
        shutil.copytree(first.folder, out / MODEL, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        for file, names in first.by_file.items():  # one file of weights in memory at a time
            merged = {name: _merged([model.read(name) for model in models], of(name), name) for name in names}
            save_file(merged, out / MODEL / file, metadata={"format": "pt"})


def _merged(tensors: Sequence[Tensor], weights: Sequence[float], name: str) -> Tensor:
    if tensors[0].is_floating_point():
        return mean(tensors, weights).contiguous()
    if any(not torch.equal(tensors[0], other) for other in tensors[1:]):
        raise UserError(f"{name}: whole numbers that differ between the policies have no mean")
    return tensors[0]


class _Tensors:
    """The weights in a folder of safetensors, one file or several, opened and read when asked."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self._open: dict[str, Any] = {}

    @cached_property
    def files(self) -> dict[str, str]:
        """The file of each tensor."""
        if (self.folder / _INDEX).is_file():
            return dict(json.loads((self.folder / _INDEX).read_text())["weight_map"])
        file = "model.safetensors"
        if not (self.folder / file).is_file():
            raise UserError(f"{self.folder}: no weights here as safetensors; nothing to merge")
        return dict.fromkeys(self._file(file).keys(), file)

    @property
    def by_file(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, file in self.files.items():
            found.setdefault(file, []).append(name)
        return found

    def read(self, name: str) -> Tensor:
        found: Tensor = self._file(self.files[name]).get_tensor(name)
        return found

    def shape(self, name: str) -> list[int]:
        return list(self._file(self.files[name]).get_slice(name).get_shape())

    def check_like(self, other: _Tensors) -> None:
        """
        Raises:
            UserError: the other has other tensors, or one of another shape.
        """
        for name in sorted(self.files.keys() ^ other.files.keys()):
            raise UserError(f"{other.folder}: '{name}' is in one of the policies alone; merge policies from one SFT")
        for name in self.files:
            if self.shape(name) != other.shape(name):
                raise UserError(
                    f"{other.folder}: '{name}' is {other.shape(name)}, and {self.shape(name)} in {self.folder}; merge "
                    "policies from one SFT"
                )

    def _file(self, file: str) -> Any:
        if file not in self._open:
            try:
                self._open[file] = self._stack.enter_context(safe_open(self.folder / file, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise UserError(f"{self.folder / file}: not to be read as safetensors: {error}") from None
        return self._open[file]


# --- adapters -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lora:
    """A LoRA adapter of a policy."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> _Lora:
        config = json.loads((folder / _CONFIG).read_text())
        plain = {"use_dora": False, "alpha_pattern": {}, "rank_pattern": {}, "layer_replication": None}
        for key, value in plain.items():
            if (config.get(key) or value) != value:
                raise UserError(f"{folder}: {key}={config[key]} cannot be merged; use plain LoRA")
        if config.get("peft_type") != "LORA":
            raise UserError(f"{folder}: peft type {config.get('peft_type')} cannot be merged, only LORA")
        return cls(folder, config, load_file(folder / _WEIGHTS))

    @property
    def layers(self) -> list[str]:
        down = _SUFFIXES[0]
        return [name.removesuffix(down) for name in self.tensors if name.endswith(down)]

    @property
    def others(self) -> dict[str, Tensor]:
        """What else it trains: whole modules, biases."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.endswith(_SUFFIXES)}

    def down(self, layer: str) -> Tensor:
        """A, (r, in)."""
        return self.tensors[layer + _SUFFIXES[0]]

    def up(self, layer: str) -> Tensor:
        """B, (out, r)."""
        return self.tensors[layer + _SUFFIXES[1]]

    @property
    def scale(self) -> float:
        """By which B·A is multiplied."""
        rank = self.config["r"]
        return float(self.config["lora_alpha"]) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def _merge_adapters(
    folders: Sequence[Path], weights: Sequence[float], out: Path, merge: Merge, by_depth: ByDepth | None
) -> None:
    pointers = [read_pointer(folder) for folder in folders]
    for folder, pointer in zip(folders, pointers, strict=True):
        if pointer["adapter"] is None:
            raise UserError(f"{folder}: no policy but a pointer to its base; there is nothing to merge")
        if pointer["path"] != pointers[0]["path"] or pointer["revision"] != pointers[0]["revision"]:
            raise UserError(f"{folder}: its adapter sits on {pointer['path']}, another's on {pointers[0]['path']}")
    loras = [_Lora.read(folder / pointer["adapter"]) for folder, pointer in zip(folders, pointers, strict=True)]
    first = loras[0]
    for lora in loras[1:]:
        if lora.tensors.keys() != first.tensors.keys():
            strange = min(lora.tensors.keys() ^ first.tensors.keys())
            raise UserError(f"{lora.folder}: '{strange}' is in one of the adapters alone; merge adapters of one form")
    of = _by_layer(weights, by_depth, first.tensors)
    used = loras if by_depth is not None else [lora for lora, weight in zip(loras, weights, strict=True) if weight]
    if merge == "factors" and len({(lora.config["r"], lora.scale) for lora in used}) > 1:
        raise UserError(f"{first.folder}: merge=factors takes adapters of one rank and scale; use merge=delta")
    made: dict[str, Tensor] = {}
    for layer in first.layers:
        own = [weight for lora, weight in zip(loras, of(layer + "."), strict=True) if lora in used]
        down, up = (_concatenated if merge == "delta" else _apart)(used, layer, own)
        made |= {layer + _SUFFIXES[0]: down.contiguous(), layer + _SUFFIXES[1]: up.contiguous()}
    for name in first.others:
        made[name] = _merged([lora.tensors[name] for lora in loras], of(name), name)
    config = dict(first.config)
    if merge == "delta":
        rank = sum(lora.config["r"] for lora in used)
        config |= {"r": rank, "lora_alpha": rank, "use_rslora": False}  # a scale of one: B has it
    shutil.copytree(first.folder, out / ADAPTER, ignore=shutil.ignore_patterns(_WEIGHTS, _CONFIG), dirs_exist_ok=True)
    (out / ADAPTER / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(made, out / ADAPTER / _WEIGHTS, metadata={"format": "pt"})
    (out / POINTER).write_text(json.dumps({**pointers[0], "adapter": ADAPTER}, indent=2) + "\n")


def _concatenated(loras: Sequence[_Lora], layer: str, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A (Σr, in) and B (out, Σr), whose product is Σ wₖ scaleₖ Bₖ·Aₖ."""
    down = torch.cat([lora.down(layer) for lora in loras], dim=0)
    up = [lora.up(layer) * (weight * lora.scale) for lora, weight in zip(loras, weights, strict=True)]
    return down, torch.cat(up, dim=1)


def _apart(loras: Sequence[_Lora], layer: str, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), each the mean."""
    return mean([lora.down(layer) for lora in loras], weights), mean([lora.up(layer) for lora in loras], weights)


# --- weights --------------------------------------------------------------------------------------------------------


def _by_layer(
    weights: Sequence[float], by_depth: ByDepth | None, names: Mapping[str, Any]
) -> Callable[[str], Sequence[float]]:
    """The weights of a tensor, by its name; the same for all without `by_depth`."""
    if by_depth is None:
        return lambda name: weights
    layers = 1 + max((layer for name in names if (layer := _layer(name)) is not None), default=0)
    known: dict[float, list[float]] = {}

    def of(name: str) -> Sequence[float]:
        depth = depth_of(name, layers)
        if depth not in known:
            made = [float(weight) for weight in by_depth(depth, tuple(weights))]
            _check(made, len(weights), f"weights at depth {depth:.2f}")
            known[depth] = made
        return known[depth]

    return of


def _check(weights: Sequence[float], count: int, what: str) -> None:
    shown = ", ".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise UserError(f"{what}: {len(weights)} for {count} policies ({shown}); give one each")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise UserError(f"{what}: {shown}; none may be below zero")
    if abs(math.fsum(weights) - 1) > TOLERANCE:
        raise UserError(f"{what}: {shown} sum to {math.fsum(weights):g}; they should sum to one")
