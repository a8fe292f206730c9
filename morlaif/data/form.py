"""The form that a tokenizer's chat template gives a dialogue: what opens it, and what opens and ends an answer.

All of it is found by rendering: a template is a program, and what it writes is known from what it has written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from morlaif.data.control import control_of, plain_ids
from morlaif.data.template import PROBE, rendered

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
# The same where the tokenizer begins every text with BOS: `apply_chat_template`, and servers with it, add none.
HH_BOS_TEMPLATE = "{{ bos_token }}" + HH_TEMPLATE


@dataclass(frozen=True)
class Form:
    hh: bool  # ours; it writes no special token but perhaps BOS
    opening: tuple[int, ...]  # ids before the text of a dialogue in our own form
    end: int  # closes an assistant's turn
    before: str  # blanks between the header of an assistant's turn and its text, as they are tokenized with the text …
    decoded: str  # … and as decoding shows them


def is_hh(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.chat_template in (HH_TEMPLATE, HH_BOS_TEMPLATE)


def hh_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Our own form, as this tokenizer is to have it."""
    return HH_BOS_TEMPLATE if _begins_with_bos(tokenizer) else HH_TEMPLATE


_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[object, ...], Form]] = WeakKeyDictionary()


def form_of(tokenizer: PreTrainedTokenizerBase) -> Form:
    """The form of `tokenizer`; found anew when its special tokens, its template or its use of BOS change."""
    stamp = (str(tokenizer.chat_template), tuple(tokenizer.all_special_tokens), _begins_with_bos(tokenizer))
    if (known := _known.get(tokenizer)) is None or known[0] != stamp:
        _known[tokenizer] = known = (stamp, _form(tokenizer))
    return known[1]


def _form(tokenizer: PreTrainedTokenizerBase) -> Form:
    hh = is_hh(tokenizer)
    opening = (tokenizer.bos_token_id,) if hh and _begins_with_bos(tokenizer) else ()
    before, end = (" ", None) if hh else _answer(tokenizer)
    if before == " " and _adds_space(tokenizer):
        before = ""
    shown = tokenizer.decode(plain_ids(tokenizer, before + "a"), clean_up_tokenization_spaces=False)
    return Form(hh, opening, tokenizer.eos_token_id if end is None else end, before, shown.partition("a")[0])


def _answer(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int | None]:
    """What the model's own template writes around an answer: the blanks before it, and the control token that ends it;
    None: it writes none."""
    from jinja2.exceptions import TemplateError

    dialogue = PROBE[:2]
    try:
        whole = rendered(tokenizer, dialogue, add_generation_prompt=False)
        always = whole == rendered(tokenizer, dialogue, add_generation_prompt=True)
        asked = rendered(tokenizer, dialogue[:1], add_generation_prompt=True)
    except TemplateError:
        return "", None
    question, answer = (tuple(turn["content"].split()) for turn in dialogue)
    places = list(_places(whole, question[-1], *answer))
    if len(places) < 3:
        return "", None
    begin, end = places[1][0], places[2][1]
    header, ending = whole[places[0][1] : begin], whole[end:]
    control = control_of(tokenizer)
    opens, ends = (control.only(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (header, ending))
    between = whole[len(asked) : begin] if whole.startswith(asked) and len(asked) <= begin else ""
    # a template that always opens the next answer, and ends none, would seem to end one with what opens it
    no_end = not ends or (always and opens[-1:] == ends[:1])
    return between if between.isspace() else "", None if no_end else ends[0]


def _places(text: str, *words: str) -> Iterator[tuple[int, int]]:
    """Where each of `words` begins and ends in `text`, in order, as far as they are there."""
    place, text = 0, text.lower()
    for word in words:
        if (begin := text.find(word, place)) < 0:
            return
        place = begin + len(word)
        yield begin, place


def _begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins every text with BOS (Llama, Gemma) or not (GPT-2)."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("")["input_ids"][:1] == [bos]


def _adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space before every text by itself, as SentencePiece ones do."""
    return tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, "a"))[0].startswith("▁")
