"""Which ids end a response of a model: the one answer to it, for sampling, training, rollouts and evaluation.

Many models end a turn with an id that is not the EOS of their tokenizer: Gemma says <end_of_turn>, Phi-3 <|end|>,
Llama 3 one of three. They list them in `generation_config.eos_token_id`; fine-tuned ones at times in their chat
template alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif.data.form import form_of


@dataclass(frozen=True)
class TurnEnds:
    own: int  # the end that the chat template writes: what a policy is taught, and what is put where a stop string was
    ids: frozenset[int]  # each ends a response

    def ended(self, row: Sequence[int]) -> bool:
        """Whether a response ended by itself, rather than at the limit of its length."""
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
