"""Small tokenizers in the conventions that real chat models have, and a small model for each; no network, no files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["\n\nHuman: how are you today?\n\nAssistant: I am very well, thank you. user model system assistant"] * 4

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
GLM = (  # ends no turn: the next one's header does
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_FLAG = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}<|assistant|>"


@dataclass(frozen=True)
class Style:
    template: str | None
    eos: str
    listed: tuple[str, ...] = ()  # of generation_config.eos_token_id; none: it has no such list
    end: str = ""  # the template's own end of turn; "" is EOS
    special: tuple[str, ...] = ()
    bos: str | None = None
    begins: bool = False  # whether the tokenizer begins every text with BOS
    before: str = ""  # blanks before an answer's text
    refuses_system: bool = False


STYLES: dict[str, Style] = {
    "gemma": Style(
        GEMMA, "<eos>", ("<eos>", "<end_of_turn>"), "<end_of_turn>", ("<start_of_turn>", "<end_of_turn>"), "<bos>",
        begins=True, refuses_system=True,
    ),
    "phi3": Style(
        PHI3, "<|endoftext|>", ("<|endoftext|>", "<|assistant|>", "<|end|>"), "<|end|>",
        ("<|user|>", "<|system|>", "<|assistant|>", "<|end|>"),
    ),
    "llama3": Style(
        LLAMA3, "<|end_of_text|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"), "<|begin_of_text|>", begins=True,
    ),
    "chatml": Style(
        CHATML, "<|im_end|>", ("<|im_end|>", "<|endoftext|>"), "<|im_end|>", ("<|im_start|>", "<|endoftext|>")
    ),
    "chatml on a base": Style(CHATML, "<|endoftext|>", (), "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
    "mistral": Style(
        MISTRAL, "</s>", (), "", ("[INST]", "[/INST]"), "<s>", begins=True, before=" ", refuses_system=True
    ),
    "glm": Style(
        GLM, "<|endoftext|>", ("<|endoftext|>", "<|user|>", "<|observation|>"), "",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|observation|>"), before="\n",
    ),
    "no flag": Style(NO_FLAG, "</s>", (), "", ("<|user|>", "<|assistant|>", "<|system|>")),
    "base": Style(None, "<|endoftext|>", before=" "),
    "base with bos": Style(
        None, "<eos>", ("<eos>", "<end_of_turn>"), "", ("<end_of_turn>",), "<bos>", begins=True, before=" "
    ),
}  # fmt: skip


@cache
def _trained() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    made: str = bpe.to_str()
    return made


def tokenizer(style: Style) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the style's tokens and template, as its files would give it."""
    bpe = Tokenizer.from_str(_trained())
    names = dict.fromkeys([style.eos, *filter(None, [style.bos]), *style.special, "<unused7>", "<pad>"])
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if style.bos and style.begins:
        bos = (style.bos, bpe.token_to_id(style.bos))
        bpe.post_processor = TemplateProcessing(single=f"{style.bos} $A", special_tokens=[bos])
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=style.eos, bos_token=style.bos, pad_token="<pad>",
        clean_up_tokenization_spaces=False, model_max_length=512,
    )  # fmt: skip
    made.chat_template = style.template
    return made


def model(style: Style, own: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """Random weights, and a generation config as the style has it."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(own), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=own.pad_token_id,
        eos_token_id=own.eos_token_id, bos_token_id=own.bos_token_id, initializer_range=0.3,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    if style.listed:
        made.generation_config.eos_token_id = own.convert_tokens_to_ids(list(style.listed))
        made.generation_config._from_model_config = False
    return made
