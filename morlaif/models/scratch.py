"""Models from nothing: a small Llama and its tokenizer, for worlds that need no pretrained model, and bare shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from morlaif.data.chat import PAD_TOKEN, prepare_tokenizer
from morlaif.errors import UserError
from morlaif.models.settings import ScratchSettings

BOS_TOKEN = "<|bos|>"
EOS_TOKEN = "<|eos|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts`: it spells any text, and its bos, eos and pad tokens are three different ones."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, BOS_TOKEN, EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
    )
    prepare_tokenizer(tokenizer)
    return tokenizer


def build_causal_lm(settings: ScratchSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A Llama of random weights that depend on `seed` alone."""
    if len(tokenizer) > settings.vocab_size:
        raise UserError(f"model.scratch.vocab_size {settings.vocab_size} is below the tokenizer's {len(tokenizer)} ids")
    config = LlamaConfig(
        vocab_size=len(tokenizer),  # little text may yield fewer merges than asked for
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_positions,
        tie_word_embeddings=settings.tie_embeddings,
        initializer_range=settings.init_std,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone, where the weights are drawn
        return LlamaForCausalLM(config)


def model_of_shape(config: Mapping[str, Any], dtype: torch.dtype, layers: int | None = None) -> PreTrainedModel:
    """The causal LM that a config.json describes, of random weights, on the device of the context.

    No code of a folder's runs. `layers`: so many of its own, the first ones.
    """
    values = {key: value for key, value in config.items() if key not in ("model_type", "auto_map", "architectures")}
    made = AutoConfig.for_model(config["model_type"], **values)
    if layers is not None:
        text = made.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    return AutoModelForCausalLM.from_config(made, dtype=dtype, trust_remote_code=False)
