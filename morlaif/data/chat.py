"""From text to ids and back: the one place, so that SFT, preference models, PPO and scoring agree to the token.

Prompt and response are tokenized apart and concatenated. A prompt that is too long loses its beginning (its BOS token
stays), for what was said last matters most; a response loses its end only when it alone is too long, and keeps EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from morlaif.data.control import control_of, plain_ids, template_ids
from morlaif.data.records import Message
from morlaif.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The dialogue form of HH-RLHF (Bai et al. 2022, arXiv 2204.05862), for tokenizers that bring no template of their own.
HH_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '\n\nHuman: ' + message['content'] }}"
    "{% else %}{{ '\n\nAssistant: ' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)

PAD_TOKEN = "<|pad|>"
_KNOWN_PADS = (PAD_TOKEN, "<pad>", "[PAD]", "<|finetune_right_pad_id|>")


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give the tokenizer, in place, a pad token of its own (never EOS) and a chat template if it has none.

    Returns True if the vocabulary grew, so that the embeddings of a model must be resized.
    """
    if tokenizer.eos_token is None:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: it has no EOS token; set `eos_token` in its config")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = HH_TEMPLATE
    if tokenizer.pad_token is not None and tokenizer.pad_token not in (
        tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token,
    ):  # fmt: skip
        return False
    vocabulary = tokenizer.get_vocab()
    pad = next((token for token in _KNOWN_PADS if token in vocabulary), PAD_TOKEN)
    return tokenizer.add_special_tokens({"pad_token": pad}) > 0


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_length: int | None = None
) -> list[int]:
    """Ids of the dialogue so far and the opening of the assistant's turn; the last `max_length` of them, BOS kept."""
    if _is_hh(tokenizer):  # it writes no special token: none in all of the text is one
        control = control_of(tokenizer)
        turns = [control.turn(turn, control.added) for turn in messages] if control.added else list(messages)
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = _opening(tokenizer) + plain_ids(tokenizer, text)
    else:  # a template of the model's own writes its special tokens itself, and nobody else does
        ids = template_ids(tokenizer, messages, add_generation_prompt=True)
    return keep_end(ids, max_length, tokenizer.bos_token_id)


def response_ids(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Ids of the assistant's turn, ending in EOS."""
    space = " " if _is_hh(tokenizer) and not _adds_space(tokenizer) else ""
    return [*plain_ids(tokenizer, space + response), tokenizer.eos_token_id]


def dialogue_parts(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], response: str, max_length: int
) -> tuple[list[int], list[int]]:
    """Prompt ids and response ids that together hold at most `max_length` tokens (callers mask the first part)."""
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; it must be at least 1")
    answer = response_ids(tokenizer, response)
    if len(answer) > max_length:
        answer = [*answer[: max_length - 1], tokenizer.eos_token_id]
    return prompt_ids(tokenizer, messages, max_length - len(answer)), answer


def dialogue_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], response: str, max_length: int
) -> list[int]:
    """Ids of prompt and response together, at most `max_length`, ending in EOS."""
    prompt, answer = dialogue_parts(tokenizer, messages, response, max_length)
    return prompt + answer


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of an assistant's turn: without special tokens, without the space that opened it."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.removeprefix(" ")


def _is_hh(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.chat_template == HH_TEMPLATE


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[BOS] for tokenizers that begin every text with it (Llama, Gemma), else nothing (GPT-2)."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []


def _adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space before every text by itself, as SentencePiece ones do."""
    return tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, "a"))[0].startswith("▁")


def keep_end(ids: list[int], max_length: int | None, bos: int | None) -> list[int]:
    """The last `max_length` ids, a leading BOS kept."""
    if max_length is None or len(ids) <= max_length:
        return ids
    if max_length <= 0:
        return []
    if bos is not None and ids[0] == bos:
        return [bos, *ids[len(ids) - max_length + 1 :]]
    return ids[len(ids) - max_length :]
