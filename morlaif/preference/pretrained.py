"""Reward models that somebody else trained: any sequence classifier, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from morlaif import sharded
from morlaif.data.chat import fit_messages, prepare_tokenizer, spoken_ids
from morlaif.data.control import control_of, plain_ids
from morlaif.data.form import is_hh
from morlaif.data.records import Message
from morlaif.data.spool import Chained, Mapped
from morlaif.errors import UserError
from morlaif.models.open import check_vocabulary, open_model, open_tokenizer
from morlaif.models.place import Source, absolute
from morlaif.preference.card import write_pretrained_card
from morlaif.preference.lora import forward_tokens
from morlaif.preference.model import Dialogue, fingerprint, tokenize
from morlaif.preference.outputs import Output, choose
from morlaif.preference.pairs import label_pairs, prompt_room
from morlaif.preference.report import MODEL, PMReport, measures
from morlaif.preference.scoring import length_buckets
from morlaif.preference.settings import PretrainedPM
from morlaif.preference.tasks import Corpus, Task


class Text(NamedTuple):
    """A dialogue as the model's own tokenizer gives it."""

    ids: list[int]
    types: list[int] | None  # encoders that read two texts: which is which
    prompt_cut: int = 0  # tokens that the prompt lost
    response_cut: int = 0  # tokens that the response lost


class PretrainedModel:
    """A reward model with its tokenizer.

    Decoders read the dialogue in their own chat template (the HH-RLHF form, closed by EOS, where they have none);
    encoders read prompt and response as a pair of texts, as they were trained. A prompt of more than `max_prompt`
    tokens loses its beginning, whatever the response is; a response has the rest.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, output: int = 0
    ) -> None:
        """`output`: which of its scores is the reward."""
        self.name, self.model, self.tokenizer, self.output = name, model, tokenizer, output
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions, tokenizer.model_max_length)
        self.max_prompt = self.max_length // 2  # most tokens of a prompt
        self.decoder = hasattr(model, "score")  # what transformers calls the head of a causal trunk
        if self.decoder:
            prepare_tokenizer(tokenizer)
        elif tokenizer.pad_token_id is None:
            raise UserError(f"pm.paths.{name}: the tokenizer of '{model.name_or_path}' has no pad token")

    @classmethod
    def load(
        cls,
        name: str,
        source: Source,
        max_length: int,
        *,
        output: Output | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> PretrainedModel:
        with torch.random.fork_rng(devices=[]), sharded.unsharded():
            model = open_model(AutoModelForSequenceClassification, source, "classifier", dtype=dtype)
            tokenizer = open_tokenizer(source)
        check_vocabulary(source.where, tokenizer, model.get_input_embeddings().weight.shape[0])
        model.to(device).eval().requires_grad_(False)
        count = _scores(model)
        names = model.config.id2label if count == model.config.num_labels else None  # a class may sum up what it names
        return cls(name, model, tokenizer, max_length, choose(source.where, output, count, names))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.model, heads=True)

    def encode(self, messages: Sequence[Message], response: str) -> Text:
        if self.decoder and is_hh(self.tokenizer):
            row = tokenize(self.tokenizer, messages, response, self.max_length, self.max_prompt)
            return Text(row.ids, None, row.prompt_cut, row.response_cut)
        if self.tokenizer.chat_template is not None:
            return self._spoken(messages, response)
        return self._pair(messages, response)

    def _spoken(self, messages: Sequence[Message], response: str) -> Text:
        """The dialogue in the model's own template."""

        def ids(turns: Sequence[Message], response: str) -> list[int]:
            answered: list[Message] = [*turns, {"role": "assistant", "content": response}]
            return spoken_ids(self.tokenizer, answered, add_generation_prompt=False)

        turns = fit_messages(self.tokenizer, messages, self.max_prompt)
        found = whole = ids(turns, response)
        prompt_cut = 0 if turns == list(messages) else len(ids(messages, response)) - len(whole)
        for _ in range(8):  # a shorter text may have a token more than was meant
            if (over := len(found) - self.max_length) <= 0:
                break
            kept = plain_ids(self.tokenizer, response)[: -max(1, over)]
            response = self.tokenizer.decode(kept)
            found = ids(turns, response)
        return Text(found[: self.max_length], None, prompt_cut, len(whole) - len(found))

    def _pair(self, messages: Sequence[Message], response: str) -> Text:
        prompt = messages[0]["content"] if len(messages) == 1 else _plain(messages)
        own = self.tokenizer
        prompt, response = map(control_of(own).disarm, (prompt, response))
        room = self.max_length - own.num_special_tokens_to_add(pair=True)
        asked, answer = (own(text, add_special_tokens=False)["input_ids"] for text in (prompt, response))
        if len(asked) > self.max_prompt:
            prompt = own.decode(asked[-self.max_prompt :])
        left = room - min(len(asked), self.max_prompt)
        if len(answer) > left:
            response = own.decode(answer[:left])
        own.truncation_side = "left"  # of the prompt, where its text has a token more than was meant
        made = own(prompt, response, truncation="only_first", max_length=self.max_length)
        cut = max(0, len(asked) - self.max_prompt), max(0, len(answer) - left)
        return Text(made["input_ids"], made.get("token_type_ids"), *cut)

    def answer(self, messages: Sequence[Message], response: str) -> Dialogue:
        """The response alone, in this model's tokens: to know its length; and what is cut of the whole."""
        row = self.encode(messages, response)
        ids = self.tokenizer(response, add_special_tokens=False)["input_ids"]
        return Dialogue(ids[: len(ids) - row.response_cut], 0, row.prompt_cut, row.response_cut)

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
            given["token_type_ids"] = padded([row.types or [] for row in rows], 0)
        self.model.config.get_text_config().pad_token_id = pad
        scores = self.model(**given).logits.view(len(rows), -1)[:, self.output].float()
        if not torch.isfinite(scores).all():
            raise UserError(
                f"pm.paths.{self.name}={self.model.name_or_path!r}: its scores are not finite in "
                f"{str(self.model.dtype).removeprefix('torch.')}; take another model, or a wider hardware.dtype"
            )
        return scores

    def _pad(self, rows: Sequence[Text]) -> int:
        """A decoder's head reads the last token that is not the pad token: so the pad must end no row."""
        own = self.tokenizer.pad_token_id
        if not self.decoder:
            return own
        ends = {row.ids[-1] for row in rows}
        vocabulary = self.model.get_input_embeddings().num_embeddings
        return next(i for i in (own, *range(vocabulary)) if i is not None and i < vocabulary and i not in ends)


@torch.no_grad()
def _scores(model: PreTrainedModel) -> int:
    """How many scores the model gives: what its config says, or what a class that came with it really returns."""
    if type(model).__module__.startswith("transformers."):
        return int(model.config.num_labels)
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    return int(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numel())


def _plain(messages: Sequence[Message]) -> str:
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "\n\n".join(f"{names.get(turn['role'], turn['role'])}: {turn['content']}" for turn in messages)


def measure_pretrained(task: Task, corpus: Corpus, settings: PretrainedPM) -> PMReport:
    """Test a reward model on the verdicts of a principle, and leave `pm.json` and a card; no weights are copied."""
    principle = task.principle
    source = settings.source(principle)
    if source is None:
        raise UserError(f"pm.paths: no reward model for '{principle}'")
    output = settings.output_of(principle)
    model = PretrainedModel.load(
        principle, source, settings.max_length, output=output, dtype=corpus.dtype, device=corpus.device
    )
    texts = (text for pair in corpus.pairs for text in (pair.first, pair.second))
    model.max_prompt = prompt_room([len(model.tokenizer(text)["input_ids"]) for text in texts], model.max_length)
    data = label_pairs(model.answer, corpus.pairs, {principle: task.verdicts})
    held = label_pairs(model.answer, corpus.held_pairs, {principle: task.held_verdicts})
    scores = torch.zeros(2 * len(held))
    rows = Chained(  # read anew where they are scored
        Mapped(lambda pair: model.encode(pair.messages, pair.first), corpus.held_pairs),
        Mapped(lambda pair: model.encode(pair.messages, pair.second), corpus.held_pairs),
    )
    for bucket in length_buckets([len(row.ids) for row in rows], forward_tokens(model.model)):
        scores[bucket] = model.score([rows[i] for i in bucket]).cpu()
    report = PMReport(
        principle=principle, text=task.text, kind=settings.kind, pooling="own", max_length=model.max_length,
        max_prompt=model.max_prompt,
        base={
            "path": absolute(source.path), "revision": source.revision, "own": False, "fingerprint": model.fingerprint,
            **({} if output is None else {"output": model.output}),
        },
        adapter=None, train_loss=None, steps=0, together=[principle],
        **measures(0, data, data.judged(0), held, scores.view(2, -1).T.double().numpy()),
    )  # fmt: skip
    report.save(task.out)
    (task.out / MODEL).mkdir()
    write_pretrained_card(task.out / MODEL / "README.md", report)
    return report
