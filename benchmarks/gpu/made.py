"""Models of real shapes with random weights, a tokenizer of a real size, and dialogues that fill every length limit."""

from __future__ import annotations

import itertools
import json
import random
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")
SHAPES = {  # of Qwen 2.5: width, inner width, layers, heads, key-value heads; `tiny` shows on a CPU that all starts
    "0.5b": (896, 4864, 24, 14, 2),
    "1.5b": (1536, 8960, 28, 12, 2),
    "tiny": (32, 64, 2, 4, 2),
}
VOCABULARY = {"tiny": 1024}  # rows of the embedding, which is the head too
QWEN = 151_936


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `size` tokens: bytes, then pairs and triples of letters, so that every id is readable text."""
    letters = [*string.ascii_letters, "Ġ"]  # Ġ spells a space
    vocabulary = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    pairs = [(a, b) for a, b in itertools.product(letters, string.ascii_letters)]
    triples = (("".join(pair), c) for pair, c in itertools.product(pairs, string.ascii_letters))
    for merge in itertools.chain(pairs, triples):
        if len(vocabulary) == size:
            break
        merges.append(merge)
        vocabulary.append("".join(merge))
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


def write_model(shape: str, folder: Path, device: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Random weights in `folder`, with a tokenizer that leaves a few rows of the embedding unused, as Qwen's does."""
    rows = VOCABULARY.get(shape, QWEN)
    made = tokenizer(rows - 40)
    ids = {f"{name}_token_id": getattr(made, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = dict(zip(names, SHAPES[shape], strict=True))
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(
            Qwen2Config(vocab_size=rows, **sizes, **ids, tie_word_embeddings=True, max_position_embeddings=4096)
        )
    model.to(dtype).save_pretrained(folder)
    made.save_pretrained(folder)


def write_dialogues(file: Path, rows: int, prompt: int, response: int) -> None:
    """Pairs whose prompts have at least `prompt` tokens and whose responses at least `response`: nothing is padding."""
    chance = random.Random(0)

    def text(tokens: int) -> str:
        count = tokens * 2 // 5 + 1  # words of two or three tokens
        words = ("".join(chance.choices(string.ascii_lowercase, k=5)) for _ in range(count))
        return " ".join(words)

    made = [{"prompt": text(prompt), "chosen": text(response), "rejected": text(response)} for _ in range(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
