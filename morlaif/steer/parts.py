"""Rank-one parts of a LoRA update that weights scale (Panacea, Zhong et al. 2024, arXiv 2402.02030).

    W = W0 + alpha / r · (B A + Σ_k s · w_k · b_k a_k)

The adapter has r + K ranks; the last K are the parts of the K principles, w_k their weights and s, one number a layer,
learnt. Panacea puts singular values on the first r and keeps A and B orthogonal by a penalty; here both are as LoRA has
them. s begins at K, so that at equal weights each part counts as any other rank does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from morlaif import sharded
from morlaif.errors import UserError

FILE = "steer.safetensors"  # beside the model: `<layer>.a` (K, in) and `<layer>.b` (out, K), s and alpha / r in b
ADAPTER = "default"  # of the policy, as peft calls the one that it makes


class Parts:
    """Those of a policy that learns. `weights` (K,) are what they count with now; they begin equal."""

    def __init__(self, policy: PeftModel, count: int) -> None:
        """The last `count` ranks of every LoRA layer in `policy`.

        Raises:
            UserError: the weights lie in parts on several ranks.
        """
        self.count, self.weights = count, [1 / count] * count
        named = policy.get_base_model().named_modules()
        self.layers = {name: layer for name, layer in named if isinstance(layer, LoraLayer)}
        self._folded = False
        for layer in self.layers.values():
            down = layer.lora_A[ADAPTER]
            if sharded.is_sharded(down.weight):
                raise UserError("steer.kind: lora needs whole weights on each rank; use another stage of ZeRO than 3")
            layer.register_parameter("steer_scale", nn.Parameter(down.weight.new_full((1,), float(count))))
            down.register_forward_hook(partial(self._scaled, layer))

    def _scaled(self, layer: LoraLayer, module: nn.Module, given: Any, low: Tensor) -> Tensor:
        if self._folded:
            return low
        told = torch.tensor(self.weights, dtype=low.dtype, device=low.device)
        rest = low[..., : -self.count]
        return torch.cat([rest, low[..., -self.count :] * (layer.steer_scale.to(low.dtype) * told)], -1)

    @contextmanager
    def at(self, weights: Sequence[float]) -> Iterator[None]:
        """Other weights for a while."""
        before, self.weights = self.weights, list(weights)
        try:
            yield
        finally:
            self.weights = before

    @contextmanager
    @torch.no_grad()
    def folded(self) -> Iterator[None]:
        """A plain LoRA adapter that is this policy at its weights, for whoever reads the tensors."""
        before = {name: layer.lora_B[ADAPTER].weight.clone() for name, layer in self.layers.items()}
        for layer in self.layers.values():
            up = layer.lora_B[ADAPTER].weight
            up[:, -self.count :] *= (layer.steer_scale * layer.steer_scale.new_tensor(self.weights)).to(up)
        self._folded = True
        try:
            yield
        finally:
            self._folded = False
            with torch.no_grad():
                for name, layer in self.layers.items():
                    layer.lora_B[ADAPTER].weight.copy_(before[name])

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Leave the parts alone beside the policy, at a weight of one each."""
        found = {}
        for name, layer in self.layers.items():
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            scale = layer.steer_scale * layer.scaling[ADAPTER]
            found[f"{name}.a"] = down[-self.count :].float().cpu().contiguous()
            found[f"{name}.b"] = (up[:, -self.count :].float() * scale.float()).cpu().contiguous()
        save_file(found, folder / FILE, {"format": "pt"})


class _Added:
    """Parts beside a layer whose weight has them already, at weights that are `more` (K,) away from what it has."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.down, self.up, self.more = down, up, torch.zeros(len(down))

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if not self.more.any():
            return out
        low = given[0].to(self.down.dtype) @ self.down.T
        return out + ((low * self.more.to(low)) @ self.up.T).to(out.dtype)


def aim(model: PreTrainedModel, folder: Path, more: Sequence[float]) -> None:
    """Let each part count by `more` (K,) above what it has in the merged weights of `model`, the policy of `folder`."""
    added: dict[str, _Added] = model.__dict__.setdefault("steered", {})
    if not added:
        tensors = load_file(folder / FILE, device=str(model.device))
        for name in sorted({key.rpartition(".")[0] for key in tensors}):
            added[name] = _Added(tensors[f"{name}.a"], tensors[f"{name}.b"])
            model.get_submodule(name).register_forward_hook(added[name])
    for one in added.values():
        one.more = torch.tensor(list(more), device=one.down.device)


@torch.no_grad()
def fold(model: PreTrainedModel, folder: Path, more: Sequence[float]) -> None:
    """As `aim`, within the weights themselves: what is saved of `model` is then the policy at these weights."""
    tensors = load_file(folder / FILE, device=str(model.device))
    for name in {key.rpartition(".")[0] for key in tensors}:
        layer, down, up = model.get_submodule(name), tensors[f"{name}.a"], tensors[f"{name}.b"]
        change = up @ (down * down.new_tensor(list(more))[:, None])
        layer.weight += (change.T if isinstance(layer, Conv1D) else change).to(layer.weight.dtype)
