"""A trunk whose layers torch.compile has fused, for learning: `hardware.compile`. Sampling runs them as they are."""

from __future__ import annotations

from torch import nn

enabled = False  # `hardware.compile`
BACKEND = "inductor"


def compiled(trunk: nn.Module) -> nn.Module:
    """Another object on the very layers and weights of `trunk`. Layers that are alike are compiled once, at the first
    forward with gradients and at the first without, for any number of tokens."""
    from accelerate.utils import compile_regions

    found: nn.Module = compile_regions(trunk, backend=BACKEND, dynamic=True)
    return found
