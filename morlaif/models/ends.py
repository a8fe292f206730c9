"""What ends a response of a model: the one answer to it, for sampling, training, rollouts and evaluation.

A response is the ids that were sampled and no others. A stop string ends it as an end of turn does, and cuts its text
alone: an end of turn in its place, which the policy never chose, would be learnt as if it had been chosen.

Many models end a turn with an id that is not the EOS of their tokenizer: Gemma says <end_of_turn>, Phi-3 <|end|>,
Llama 3 one of three. They list them in `generation_config.eos_token_id`; fine-tuned ones at times in their chat
template alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif.data.chat import decode_response, spell
from morlaif.data.form import form_of


@dataclass(frozen=True)
class TurnEnds:
    own: int  # the end that the chat template writes: what a policy is taught
    ids: frozenset[int]  # each ends a response

    def ended(self, row: Sequence[int]) -> bool:
        """Whether the last id is an end of turn."""
        return bool(row) and row[-1] in self.ids

    @property
    def listed(self) -> int | list[int]:
        """As a generation config has them, the own one first."""
        rest = sorted(self.ids - {self.own})
        return [self.own, *rest] if rest else self.own


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TurnEnds:
    """Of the generation config, the config, the tokenizer and its chat template."""
    own = form_of(tokenizer).end
    stated, config = getattr(model, "generation_config", None), model.config
    parts = (config, config.get_text_config()) if hasattr(config, "get_text_config") else (config,)
    found = {own, tokenizer.eos_token_id}
    if not getattr(stated, "_from_model_config", False):
        found.update(_ids(stated))
    # what a class of configs has by default may be an ordinary token of this vocabulary
    defaults = {i for part in parts for i in _listed(getattr(type(part), "eos_token_id", None))}
    known = tokenizer.added_tokens_decoder
    found.update(i for part in (stated, *parts) for i in _ids(part) if i in known or i not in defaults)
    return TurnEnds(own, frozenset(found))


def _ids(config: Any) -> Iterable[int]:
    return _listed(getattr(config, "eos_token_id", None))


def _listed(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


class Ends:
    """Where a response ends, and what its text is: an end of turn, or a stop string in its text."""

    def __init__(self, turn: TurnEnds, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.turn, self.tokenizer = turn, tokenizer
        self.stop = tuple(text for text in stop if text)
        self._completes: dict[int, bool] = {}

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> Ends:
        return cls(ends_of(model, tokenizer), tokenizer, stop)

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` ends the response, rather than the limit of its length."""
        return self.turn.ended(ids) or self.stopped(ids)

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether a stop string ended it: the policy wrote on past its turn instead of ending it."""
        if not ids or not self.stop or self.turn.ended(ids) or not self._may_complete(ids[-1]):
            return False
        text = spell(self.tokenizer, ids)
        return any(stop in text for stop in self.stop)

    def text(self, ids: Sequence[int]) -> str:
        """What whoever scores it reads: no end of turn, nothing from the first stop string on."""
        if not self.stopped(ids):
            return decode_response(self.tokenizer, ids, self.turn.ids)
        return self._cut(ids).removeprefix(form_of(self.tokenizer).decoded)

    def length(self, ids: Sequence[int]) -> int:
        """How many of `ids` hold some of the text."""
        if not self.stopped(ids):
            return len(ids) - self.turn.ended(ids)
        text = self._cut(ids)
        return next(n for n in range(len(ids) + 1) if spell(self.tokenizer, ids[:n]).startswith(text))

    def _cut(self, ids: Sequence[int]) -> str:
        text = spell(self.tokenizer, ids)
        return text[: min(place for place in map(text.find, self.stop) if place >= 0)]

    def _may_complete(self, token: int) -> bool:
        """Whether the token's own text holds the last character of a stop string; spares decoding rows at each step."""
        if token not in self._completes:
            text = spell(self.tokenizer, [token])
            partial = not text.strip() or "\ufffd" in text  # white space may be swallowed, bytes of a character split
            self._completes[token] = partial or any(stop[-1] in text for stop in self.stop)
        return self._completes[token]
