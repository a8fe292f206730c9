"""A policy small enough to train in a test, and settings to change one key at a time."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from morlaif.presets import preset
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import PPOSettings
from morlaif.rl.trainer import PPOTrainer

ROOT = Path(__file__).parents[2]
WORDS = [f"w{i}" for i in range(29)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words: <pad> 0, <eos> 1, <unk> 2, w0 … w28."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    made.chat_template = "{{ messages|map(attribute='content')|join(' ') }}"
    return made


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.2, attention_dropout=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        initializer_range=0.2,
    )  # dropout .1, as GPT-2 has it  # fmt: skip
    return GPT2LMHeadModel(config)


PROMPTS = [[{"role": "user", "content": " ".join(WORDS[(i + j) % 29] for j in range(2 + i % 4))}] for i in range(12)]


@cache
def _toy() -> dict[str, Any]:
    return preset("ppo", "toy", critic={"kind": "shared"}, kl={"coef": 0.2})


def settings(**changes: Any) -> PPOSettings:
    """The toy preset, smaller, with a shared critic and dotted keys changed: settings(**{"kl.coef": 0})."""
    config = deepcopy(_toy())
    small = {
        "steps": 3,
        "rollouts": 12,
        "max_new_tokens": 6,
        "micro_batch_size": 12,
        "checkpoint_every": 0,
        "eval_every": 0,
        "eval_prompts": 0,
        "samples": 0,
        "shaping.scaling": "none",
        "shaping.center": False,
        "shaping.missing_eos": "none",  # of a few short responses at times none ends, and nothing would be left
        "kl.coef": 0.05,
        "clip_range_value": 0.2,
    }
    for key, value in (small | changes).items():
        *path, last = key.split(".")
        place = config
        for name in path:
            place = place[name]
        assert last in place, key
        place[last] = value
    return PPOSettings(**config)


ALGORITHM = (  # the keys that make one; what is left is a matter of size
    "advantage", "whiten_advantages", "whiten_rewards", "loss", "loss_aggregation", "epochs", "gamma", "critic.kind",
    "kl.placement", "kl.estimator", "kl.controller", "kl.coef", "kl.convex",
    "shaping.scaling", "shaping.center", "shaping.clip",
    "temperature", "lam", "clip_range_value",
)  # fmt: skip


def algorithm(name: str) -> dict[str, Any]:
    """What the preset `name` says of the algorithm, as changes for `settings`."""
    tree = preset("ppo", name)
    found = {}
    for key in ALGORITHM:
        first, _, rest = key.partition(".")
        found[key] = tree[first][rest] if rest else tree[first]
    return found | {"samples_per_prompt": 1 if name in ("paper", "reinforce_pp", "rlaif") else 4}


def word_reward(prompts: Any, responses: Any) -> torch.Tensor:
    """Two principles: many early words of the vocabulary, many different words."""
    numbers = [[int(word[1:]) for word in text.split() if word[0] == "w"] for text in responses]
    return torch.tensor([[sum(n < 8 for n in row) + 0.01 * sum(row), float(len(set(row)))] for row in numbers])


def mean_objective(scores: torch.Tensor) -> torch.Tensor:
    return scores.mean(-1)


def models(config: PPOSettings, model: Any = None, seed: int = 0) -> ActorCritic:
    critic = llama(5) if config.critic.kind == "separate" else None
    model = llama() if model is None else model
    torch.manual_seed(seed)
    return ActorCritic(model, config, critic)


def trainer(config: PPOSettings, keep: Path, made: ActorCritic | None = None, **changes: Any) -> PPOTrainer:
    """All of the above in one."""
    usual = {"names": ("early", "different"), "reward": word_reward, "objective": mean_objective, "seed": 3}
    usual |= {"keep": keep, "prompts": PROMPTS, "tokenizer": tokenizer()} | changes
    return PPOTrainer(models(config) if made is None else made, settings=config, **usual)


def weights(made: ActorCritic) -> torch.Tensor:
    return torch.cat([value.flatten() for value in made.trained_state().values()])


def timeless(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in curve]
