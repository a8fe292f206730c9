"""Whether the numbers of a config.json make a model: no torch, no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")
# What a config of these kinds always names, as whole numbers above 0.
NEEDED = {"gpt2": ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")} | dict.fromkeys(
    LLAMA_LIKE, ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
)
# What any config may name.
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "d_model", "d_ff",
    "num_layers", "num_heads", "ffn_dim",
)  # fmt: skip
_LARGEST = 100_000_000


def size_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """A part of a sentence for each number that is missing, none, or does not go with another."""
    kind = config.get("model_type")
    needed = NEEDED.get(kind, ()) if isinstance(kind, str) else ()
    if missing := [name for name in needed if config.get(name) is None]:
        yield (
            f"has no {' and no '.join(map(repr, missing[:3]))}, which a config of the model_type {kind!r} names; "
            "model_type and the rest belong to different models"
        )
        return
    wrong = False
    for name in _SIZES:
        value = config.get(name)
        for one in value if isinstance(value, list) and name not in needed else (value,):
            if one is not None and not (type(one) is int and 0 < one <= _LARGEST):
                wrong = True
                yield f"{name} is {repr(one)[:40]}; expected a whole number from 1 to {_LARGEST:,}"
                break
    if wrong or not needed:
        return
    width, heads = (config[name] for name in (("n_embd", "n_head") if kind == "gpt2" else (needed[1], needed[4])))
    if config.get("head_dim") is None and width % heads:
        yield f"its width of {width} is no multiple of its {heads} attention heads"
    keys = config.get("num_key_value_heads") or heads
    if kind != "gpt2" and heads % keys:
        yield f"its {heads} attention heads are no multiple of its {keys} key-value heads"


def table_problems(config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> Iterator[str]:
    """A part of a sentence where the weights in the files (`shapes` by tensor) are not of the config's sizes."""
    kind = config.get("model_type")
    if kind not in NEEDED:
        return
    if kind == "gpt2":
        wanted = {"wte.weight": [config["vocab_size"], config["n_embd"]]}
    else:
        width, inner = config["hidden_size"], config["intermediate_size"]
        wanted = {"embed_tokens.weight": [config["vocab_size"], width]}
        wanted |= {"mlp.up_proj.weight": [inner, width], "mlp.down_proj.weight": [width, inner]}
    for name, shape in shapes.items():
        right = next((right for end, right in wanted.items() if name.endswith(end)), None)
        if right is not None and list(shape) != right:
            yield (
                f"its weight {name!r} has the shape {' by '.join(map(str, shape))}, and its config.json wants "
                f"{' by '.join(map(str, right))}; weights and config belong to different models"
            )
            return


def generation_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """A part of a sentence for each value of a generation_config.json that none can have.

    Sampling here goes by the run's config alone; who loads the model elsewhere goes by this file.
    """
    ends = settings.get("eos_token_id")
    for end in ends if isinstance(ends, list) else (ends,):
        if end is not None and type(end) is not int:
            yield f"eos_token_id is {end!r}; expected the id of a token, or a list of them"
            break
    for name in ("temperature", "top_p", "repetition_penalty", "max_length", "max_new_tokens"):
        value = settings.get(name)
        if value is not None and not (type(value) in (int, float) and 0 <= value < float("inf")):
            yield f"{name} is {value!r}; expected a number that is not negative"
