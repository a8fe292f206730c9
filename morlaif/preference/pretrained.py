"""Reward models that somebody else trained: any sequence classifier with one score, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from morlaif.data.chat import HH_TEMPLATE, dialogue_ids, keep_end, prepare_tokenizer
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.preference.model import fingerprint, quiet


class Text(NamedTuple):
    """A dialogue as the model's own tokenizer gives it."""

    ids: list[int]
    types: list[int] | None  # encoders that read two texts: which is which


class PretrainedModel:
    """A reward model with its tokenizer.

    Decoders read the dialogue in their own chat template (the HH-RLHF form, closed by EOS, where they have none);
    encoders read prompt and response as a pair of texts, as they were trained. What is too long loses the beginning of
    the prompt, never the end of the response.
    """

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions, tokenizer.model_max_length)
        self.decoder = hasattr(model, "score")  # what transformers calls the head of a causal trunk
        if self.decoder:
            prepare_tokenizer(tokenizer)
        elif tokenizer.pad_token_id is None:
            raise UserError(f"pm.paths.{name}: the tokenizer of '{model.name_or_path}' has no pad token")

    @classmethod
    def load(
        cls,
        name: str,
        path: str,
        revision: str | None,
        max_length: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        trust_remote_code: bool = False,
    ) -> PretrainedModel:
        local = path.startswith((".", "/", "~")) or path.count("/") > 1
        where = str(Path(path).expanduser()) if local else path
        if local and not (Path(where) / "config.json").is_file():
            raise UserError(f"pm.paths.{name}: '{path}' is no folder with a config.json")
        try:
            with quiet(), torch.random.fork_rng(devices=[]):
                given = {"revision": revision, "trust_remote_code": trust_remote_code}
                model, facts = AutoModelForSequenceClassification.from_pretrained(
                    where, dtype=dtype, output_loading_info=True, **given
                )
                tokenizer = AutoTokenizer.from_pretrained(where, **given)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"pm.paths.{name}: cannot load '{path}' as a sequence classifier: {reason}") from None
        if model.config.num_labels != 1:
            raise UserError(
                f"pm.paths.{name}: '{path}' gives {model.config.num_labels} scores; a reward model gives one "
                "(num_labels 1)"
            )
        if facts["missing_keys"]:
            raise UserError(
                f"pm.paths.{name}: '{path}' has no weights for {', '.join(sorted(facts['missing_keys'])[:3])}: "
                "it is no trained reward model"
            )
        return cls(name, model.to(device).eval().requires_grad_(False), tokenizer, max_length)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.model)

    def encode(self, messages: Sequence[Message], response: str) -> Text:
        if self.decoder and self.tokenizer.chat_template == HH_TEMPLATE:
            return Text(dialogue_ids(self.tokenizer, messages, response, self.max_length), None)
        if self.tokenizer.chat_template is not None:
            turns = [*messages, {"role": "assistant", "content": response}]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return Text(keep_end(ids, self.max_length, self.tokenizer.bos_token_id), None)
        return self._pair(messages, response)

    def _pair(self, messages: Sequence[Message], response: str) -> Text:
        prompt = messages[0]["content"] if len(messages) == 1 else _plain(messages)
        own = self.tokenizer
        own.truncation_side = "left"  # of the prompt
        room = self.max_length - own.num_special_tokens_to_add(pair=True)
        answer = own(response, add_special_tokens=False)["input_ids"]
        if len(answer) >= room:  # a response longer than all there is room for loses its end
            response = own.decode(answer[: room - 1])
        made = own(prompt, response, truncation="only_first", max_length=self.max_length)
        return Text(made["input_ids"], made.get("token_type_ids"))

    @torch.no_grad()
    def score(self, rows: Sequence[Text]) -> Tensor:
        """(B,) float32."""
        pad = self._pad(rows)
        width = max(len(row.ids) for row in rows)

        def padded(parts: Sequence[Sequence[int]], value: int) -> Tensor:
            return torch.tensor([[*part, *[value] * (width - len(part))] for part in parts], device=self.model.device)

        given = {
            "input_ids": padded([row.ids for row in rows], pad),
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
        }
        if rows[0].types is not None and "token_type_ids" in self.tokenizer.model_input_names:
            given["token_type_ids"] = padded([row.types for row in rows], 0)
        self.model.config.get_text_config().pad_token_id = pad
        return self.model(**given).logits[:, 0].float()

    def _pad(self, rows: Sequence[Text]) -> int:
        """A decoder's head reads the last token that is not the pad token: so the pad must end no row."""
        own = self.tokenizer.pad_token_id
        if not self.decoder:
            return own
        ends = {row.ids[-1] for row in rows}
        vocabulary = self.model.get_input_embeddings().num_embeddings
        return next(i for i in (own, *range(vocabulary)) if i is not None and i < vocabulary and i not in ends)


def _plain(messages: Sequence[Message]) -> str:
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "\n\n".join(f"{names.get(turn['role'], turn['role'])}: {turn['content']}" for turn in messages)
