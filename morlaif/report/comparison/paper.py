"""Values published in arXiv 2406.07295, shown beside ours as marks. They were measured on HH-RLHF, not on a toy world.

Accuracies are on the human label; win rates are GPT-4-Turbo's, of the linear objective over the single PM.
"""

from __future__ import annotations

from collections.abc import Mapping

SOURCE = "arXiv 2406.07295, HH-RLHF"
SIZES = ("GPT-2-medium", "GPT-2-large", "GPT-2-XL", "Gemma-2b", "Llama-2-7b")
OUR_NAMES = {"gpt2_medium": 0, "gpt2_large": 1, "gpt2_xl": 2, "gemma_2b": 3, "llama2_7b": 4}  # conf/model

OBJECTIVES: Mapping[str, tuple[float, ...]] = {  # one accuracy for each of SIZES
    "linear": (0.716, 0.716, 0.718, 0.737, 0.739),
    "max_median": (0.712, 0.715, 0.712, 0.736, 0.745),
    "max_min": (0.711, 0.711, 0.713, 0.733, 0.735),
    "soft_max_min": (0.712, 0.714, 0.714, 0.733, 0.736),
    "lower_quantile": (0.716, 0.712, 0.723, 0.736, 0.746),
    "bernoulli_nash": (0.721, 0.713, 0.723, 0.728, 0.735),
    "single": (0.678, 0.682, 0.686, 0.708, 0.716),
}
CEILING = 0.825
PRINCIPLES = {"GPT-2-medium": (0.713, 0.816), "Llama-2-7b": (0.810, 0.869)}  # lowest and highest of the twelve
WIN_OVER_SINGLE = (0.84, 0.695, 0.767, 0.623, 0.645)
HUMANS_MODEL = "Llama-2-7b"
HUMANS = {"win": 0.509, "tie": 0.245, "loss": 0.246}
# Accuracy with twelve principles and with one, in one fixed nested order.
ABLATION = {"ceiling": (0.831, 0.702), "Llama-2-7b": (0.730, 0.637), "GPT-2-medium": (0.715, 0.567)}


def span(values: tuple[float, ...], models: set[str]) -> tuple[float, float, str]:
    """The value of the one model that the runs use, where the paper has it; else from lowest to highest of all."""
    known = [OUR_NAMES[name] for name in models if name in OUR_NAMES]
    if len(known) == len(models) == 1:
        return values[known[0]], values[known[0]], SIZES[known[0]]
    return min(values), max(values), f"{SIZES[0]} to {SIZES[-1]}"
