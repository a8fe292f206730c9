"""From dialogues to ids such that no text of anybody's becomes a control token.

A chat template writes a model's control tokens as text, beside the text of the turns, and the tokenizer reads all of
it alike: a user who writes "<|im_end|>" would end the turn. So a turn's text is made harmless before it goes into the
template: whatever spells one of the tokenizer's control tokens, or a marker of its template, is broken open with
blanks. Text without such a string is not touched, and its ids are those of `apply_chat_template`.

Templates also cut, trim and rewrite what they are given, and tokenizers normalise it. So where a turn still holds a
character with which a marker could begin, the control tokens of the result are compared with those of the same
dialogue in which no marker can arise ("<" followed by a blank). If they differ, the latter is used.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from morlaif.data.markers import CONTROL, MARKERS, break_open
from morlaif.data.template import rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from morlaif.data.records import Message

# What a model thought before its answer. Templates leave it out of earlier turns; that is theirs to do.
_THOUGHT = re.compile(r"\s*(?:<think>.*?</think>|\[THINK\].*?\[/THINK\])", re.DOTALL)


@dataclass(frozen=True)
class Control:
    """The control tokens of a tokenizer and its template."""

    special: frozenset[int]  # ids that the tokenizer calls special, without the one for unknown text
    ids: frozenset[int]  # those, and added tokens of a marker's shape (<think>, <tool_call>)
    literal: re.Pattern[str] | None  # what spells one of `ids`, or is a marker of the template
    added: re.Pattern[str] | None  # what spells one of `ids` that is not special
    openers: frozenset[str]  # first characters of these

    def only(self, ids: Iterable[int]) -> list[int]:
        return [i for i in ids if i in self.ids]

    def disarm(self, text: str, pattern: re.Pattern[str] | None = None) -> str:
        """`text` in which nothing spells a control token."""
        pattern = pattern or self.literal
        return break_open(text, pattern) if pattern else text

    def turn(self, turn: Mapping[str, Any], pattern: re.Pattern[str] | None = None) -> dict[str, Any]:
        content = turn["content"]
        kept = _THOUGHT.match(content) if turn["role"] == "assistant" else None
        thought = kept[0] if kept else ""
        return {**turn, "content": thought + self.disarm(content[len(thought) :], pattern)}

    def may_arise(self, text: str) -> bool:
        """Whether `text` holds a character with which a control token could begin, perhaps in another form."""
        return not self.openers.isdisjoint(text if text.isascii() else unicodedata.normalize("NFKC", text))

    def blunt(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        """The turn in which no control token can begin, whatever a template does to it."""
        text = unicodedata.normalize("NFKC", turn["content"])
        return {**turn, "content": self.disarm("".join(c + " " if c in self.openers else c for c in text))}


def template_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[int]:
    """Ids of the dialogue in the tokenizer's own template, where only the template makes control tokens.

    Raises:
        TemplateError: the template refuses the dialogue.
    """

    def ids(turns: Sequence[Mapping[str, Any]]) -> list[int]:
        text = rendered(tokenizer, turns, add_generation_prompt=add_generation_prompt)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    control = control_of(tokenizer)
    turns = [control.turn(turn) for turn in messages]
    found = ids(turns)
    if any(control.may_arise(turn["content"]) for turn in turns):
        safe = ids([control.blunt(turn) for turn in turns])
        if control.only(found) != control.only(safe):
            return safe
    return found


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text in which nothing is special: a response that spells out "<eos>" does not end there.

    Added tokens that are not special ("<think>") stay tokens: a model writes them as text, and reads them so.
    """
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    control = control_of(tokenizer)
    if not control.special.isdisjoint(ids):  # tokenizers that do not know the option, or have them in their vocabulary
        ids = tokenizer(control.disarm(text), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[str, tuple[str, ...]], Control]] = WeakKeyDictionary()


def control_of(tokenizer: PreTrainedTokenizerBase) -> Control:
    """The control tokens of `tokenizer`; found anew when its special tokens or its template change."""
    stamp = (str(tokenizer.chat_template), tuple(tokenizer.all_special_tokens))
    if (known := _known.get(tokenizer)) is None or known[0] != stamp:
        _known[tokenizer] = known = (stamp, _control(tokenizer))
    return known[1]


def _control(tokenizer: PreTrainedTokenizerBase) -> Control:
    template = _own_markers(tokenizer)
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {}
    for i, token in tokenizer.added_tokens_decoder.items():
        if token.special:
            special[i] = token.content
        elif CONTROL.fullmatch(token.content) or token.content in template:
            added[i] = token.content
    # one character, or blanks alone, is ordinary text, whatever it serves as (some models pad with "!")
    special, added = ({i: t for i, t in kind.items() if len(t.strip()) > 1} for kind in (special, added))
    every = {*special.values(), *added.values(), *template}
    unknown = tokenizer.unk_token_id
    return Control(
        frozenset(special) - {unknown},
        frozenset({*special, *added}) - {unknown},
        _pattern(every),
        _pattern(added.values()),
        frozenset(token[0] for token in every if not token[0].isalnum()),
    )


def _own_markers(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Markers that the template writes, be they tokens or text ("[INST]", "<|user|>" of Zephyr)."""
    from jinja2.exceptions import TemplateError

    given = tokenizer.chat_template
    texts = list(given.values()) if isinstance(given, dict) else [given or ""]
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}]
    for turns in (chat, [{"role": "system", "content": "x"}, *chat]):
        try:
            texts.append(rendered(tokenizer, turns, add_generation_prompt=True))
        except TemplateError:  # no template, or one that knows no such role
            continue
    return {marker for text in texts for marker in MARKERS.findall(text)}


def _pattern(literals: Iterable[str]) -> re.Pattern[str] | None:
    """Any of `literals`, the longest first; those that differ in a number alone are one (Gemma has 6,000 <unused>)."""
    forms = {re.sub(r"\d+", r"\\d+", re.escape(t)) if not t[0].isalnum() else re.escape(t) for t in literals}
    return re.compile("|".join(sorted(forms, key=lambda form: (-len(form), form)))) if forms else None
