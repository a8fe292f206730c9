"""From text to ids and back: the one place, so that SFT, preference models, PPO and scoring agree to the token.

Prompt and response are tokenized apart and concatenated. A prompt that is too long loses whole turns from its front
(see `morlaif.data.cut`), for the last turns matter most; its BOS token, its system turn and its headers stay. A
response loses its end only where it and the least that a prompt keeps are too long, and keeps EOS.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from functools import cache
from typing import TYPE_CHECKING

from morlaif.data.control import control_of, plain_ids, template_ids
from morlaif.data.cut import cut_messages
from morlaif.data.form import HH_TEMPLATE, form_of, hh_template, is_hh
from morlaif.data.records import Message
from morlaif.data.template import render
from morlaif.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("morlaif.data")

PAD_TOKEN = "<|pad|>"
_KNOWN_PADS = (PAD_TOKEN, "<pad>", "[PAD]", "<|finetune_right_pad_id|>")


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give the tokenizer, in place, a pad token of its own (never EOS) and a chat template if it has none.

    Returns True if the vocabulary grew, so that the embeddings of a model must be resized.
    """
    if tokenizer.eos_token is None:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r}: it has no EOS token; set `eos_token` in its config")
    if tokenizer.chat_template is None or is_hh(tokenizer):
        tokenizer.chat_template = hh_template(tokenizer)
    if tokenizer.pad_token is not None and tokenizer.pad_token not in (
        tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token,
    ):  # fmt: skip
        return False
    vocabulary = tokenizer.get_vocab()
    pad = next((token for token in _KNOWN_PADS if token in vocabulary), PAD_TOKEN)
    return tokenizer.add_special_tokens({"pad_token": pad}) > 0


LEAST = 4  # a prompt keeps at least a fourth of the room, or all of itself, however long the response is


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_length: int | None = None
) -> list[int]:
    """Ids of the dialogue so far and the opening of the assistant's turn, at most `max_length` of them.

    Raises:
        UserError: the tokenizer's template refuses the dialogue.
    """
    ids = _whole(tokenizer, messages)
    if max_length is None or len(ids) <= max_length:
        return ids
    cut = fit_messages(tokenizer, messages, max_length)
    return keep_end(_whole(tokenizer, cut), max_length, tokenizer.bos_token_id)  # where no room is left for headers


def fit_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_length: int) -> list[Message]:
    """The turns that `prompt_ids` keeps."""
    return cut_messages(messages, lambda turns: len(_whole(tokenizer, turns)), max_length)


def _whole(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    form = form_of(tokenizer)
    if form.hh:  # it writes no special token: none in all of the text is one
        control = control_of(tokenizer)
        turns = [control.turn(turn, control.added) for turn in messages] if control.added else list(messages)
        return [*form.opening, *plain_ids(tokenizer, render(HH_TEMPLATE, turns, add_generation_prompt=True))]
    # a template of the model's own writes its special tokens itself, and nobody else does
    return spoken_ids(tokenizer, messages, add_generation_prompt=True)


def spoken_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[int]:
    """Ids in the tokenizer's own template. Where that refuses a system turn, or leaves it out, its text is put before
    that of the first user turn.

    Raises:
        UserError: the template refuses the dialogue.
    """
    from jinja2.exceptions import TemplateError

    def ids(turns: Sequence[Message]) -> list[int]:
        return template_ids(tokenizer, turns, add_generation_prompt=add_generation_prompt)

    folded = fold_system(messages)
    try:
        found = ids(messages)
        if folded is None or found != ids(messages[1:]):
            return found
    except TemplateError as error:
        if folded is None:
            raise UserError(refused(tokenizer.name_or_path, messages, error)) from None
    try:
        found = ids(folded)
    except TemplateError as error:
        raise UserError(refused(tokenizer.name_or_path, messages, error)) from None
    _say_folded(tokenizer.name_or_path)
    return found


@cache
def _say_folded(model: str) -> None:
    """Once a process."""
    log.warning("the chat template of %r takes no system turn; its text opens the first user turn", model)


def fold_system(messages: Sequence[Message]) -> list[Message] | None:
    """The dialogue with its system turn's text at the head of its first user turn; None: it has no system turn."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    text = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": text}, *messages[2:]]


def refused(model: str, messages: Sequence[Message], error: Exception) -> str:
    """One line for a dialogue that a chat template refuses: which, why, and what would be right."""
    begin = " ".join(messages[0]["content"].split())
    roles = ", ".join(turn["role"] for turn in messages[:4]) + (", …" if len(messages) > 4 else "")
    return (
        f"the chat template of {model!r} refuses the dialogue of the turns {roles} that begins with "
        f"{begin[:60] + '…' * (len(begin) > 60)!r} ({' '.join(str(error).split())[:120]}); most templates want user "
        "and assistant in turn, the user first: change or leave out such rows, or take a model that knows them"
    )


def response_ids(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Ids of the assistant's turn, closed as the template closes one; by EOS where it writes no end."""
    form = form_of(tokenizer)
    return [*plain_ids(tokenizer, form.before + response), form.end]


def dialogue_parts(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    response: str,
    max_length: int,
    max_prompt: int | None = None,
) -> tuple[list[int], list[int]]:
    """Prompt ids and response ids that together hold at most `max_length` tokens (callers mask the first part).

    max_prompt: most of the prompt, whatever the response; the response then has the rest. None: what the response
    leaves, but a fourth at least.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; it must be at least 1")
    answer = response_ids(tokenizer, response)
    room = max(max_length - len(answer), max_length // LEAST) if max_prompt is None else max_prompt
    prompt = prompt_ids(tokenizer, messages, room)
    return prompt, shorten(answer, max_length - len(prompt))


def shorten(answer: list[int], room: int) -> list[int]:
    """At most `room` ids of a response, the last one kept."""
    return answer if len(answer) <= room else [*answer[: room - 1], answer[-1]]


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Container[int] | None = None) -> str:
    """The text of an assistant's turn, without the token that ended it and the blanks that opened it.

    Any other special token that was sampled is text like any other ("<unused7>"): what a policy says in them, and that
    it says them, is seen by whoever judges it.

    Args:
        ends: ids that end a turn of the model (`morlaif.models.ends`); None: those that the tokenizer knows.
    """
    form = form_of(tokenizer)
    ended = ids and ids[-1] in ((form.end, tokenizer.eos_token_id) if ends is None else ends)
    return spell(tokenizer, ids[:-1] if ended else ids).removeprefix(form.decoded)


def spell(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of `ids`, special tokens and all."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def keep_end(ids: list[int], max_length: int | None, bos: int | None) -> list[int]:
    """The last `max_length` ids, a leading BOS kept."""
    if max_length is None or len(ids) <= max_length:
        return ids
    if max_length <= 0:
        return []
    if bos is not None and ids[0] == bos:
        return [bos, *ids[len(ids) - max_length + 1 :]]
    return ids[len(ids) - max_length :]
