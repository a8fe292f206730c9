"""The network: a causal trunk, one pooled state a sequence, a linear head without bias."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from morlaif import sharded
from morlaif.data.chat import prompt_ids, response_ids, shorten
from morlaif.data.records import Message
from morlaif.data.spool import Spool, packed, unpacked
from morlaif.errors import UserError
from morlaif.models.layers import trunk_name, trunk_of
from morlaif.models.open import check_causal, check_vocabulary, open_model
from morlaif.models.place import Source

Pooling = Literal["last", "mean"]


def load_classifier(
    source: Source | str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The model at `source` (a causal LM or a classifier) with one score, in eval mode.

    Its pad token is that of `tokenizer`. Where the model has no row for it one is added; no real token attends to it.
    """
    source = Source.of(source, revision=revision, key="pm.base")
    with torch.random.fork_rng(devices=[]):  # what is new is drawn here, and again by `draw_head`
        model = open_model(AutoModelForSequenceClassification, source, "trunk", dtype=dtype, new=("score.",)).eval()
    rows = sharded.shape(model.get_input_embeddings().weight)[0]
    if (needed := check_vocabulary(source.where, tokenizer, rows)) > rows:
        model.resize_token_embeddings(needed, mean_resizing=False)
        weight = model.get_input_embeddings().weight
        with sharded.gathered([weight], change=True), torch.no_grad():
            weight[rows:] = weight[:rows].mean(0)
    sharded.split(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    head(model)  # an architecture without a linear score is found out now
    if not any(map(sharded.is_sharded, model.parameters())):  # else DeepSpeed has put each part where it belongs
        model.to(device)
        check_causal(source, model)
    return model


def head(model: nn.Module) -> nn.Linear:
    """The linear layer that turns a state into the score."""
    score = getattr(model, "score", None)
    if score is None:
        raise UserError(f"{type(model).__name__} has no linear layer `score`: use a decoder-only base")
    return score


def draw_head(model: nn.Module, generator: torch.Generator) -> Tensor:
    """(1, H) with deviation 1/√(h + 1), as reward models since Stiennon et al. (2009.01325) begin: on states of size 1
    the first scores have a deviation of 1."""
    width = head(model).in_features
    return torch.randn(1, width, generator=generator) / math.sqrt(width + 1)


class Dialogue(NamedTuple):
    """A tokenized prompt with one response, EOS at its end."""

    ids: list[int]
    start: int  # where the response begins
    prompt_cut: int = 0  # tokens that the prompt lost
    response_cut: int = 0  # tokens that the response lost


def dialogue_spool(folder: Path | None = None) -> Spool[Dialogue]:
    """Of tokenized dialogues; `folder` as in `Spool`."""

    def of(raw: bytes) -> Dialogue:
        start, prompt_cut, response_cut, *ids = unpacked(raw)
        return Dialogue(ids, start, prompt_cut, response_cut)

    return Spool(lambda row: packed([row.start, row.prompt_cut, row.response_cut, *row.ids]), of, folder)


class PaddedBatch(NamedTuple):
    """B dialogues, padded on the right to the longest."""

    ids: Tensor  # (B, T)
    starts: Tensor  # (B,) index of the first response token
    lengths: Tensor  # (B,) tokens before the padding

    def repeat(self, times: int) -> PaddedBatch:
        return PaddedBatch(self.ids.repeat(times, 1), self.starts.repeat(times), self.lengths.repeat(times))


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    response: str,
    max_length: int,
    max_prompt: int | None = None,
) -> Dialogue:
    """The one form in which a dialogue is trained on and scored.

    The prompt is cut to `max_prompt` tokens (None: half of `max_length`) whatever the response is, so that all
    responses to it are read behind the same prompt; the response has the rest. See `morlaif.data.cut` for what is cut.
    """
    whole, answer = prompt_ids(tokenizer, messages), response_ids(tokenizer, response)
    room = max_length // 2 if max_prompt is None else max_prompt
    prompt = whole if len(whole) <= room else prompt_ids(tokenizer, messages, room)
    kept = shorten(answer, max_length - len(prompt))
    return Dialogue(prompt + kept, len(prompt), len(whole) - len(prompt), len(answer) - len(kept))


def pad_batch(rows: Sequence[Dialogue], pad: int, device: torch.device | str = "cpu") -> PaddedBatch:
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[pad] * (longest - len(row.ids))] for row in rows])
    starts, lengths = torch.tensor([[row.start, len(row.ids)] for row in rows]).T
    return PaddedBatch(ids.to(device), starts.to(device), lengths.to(device))


def trunk_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Last hidden states (B, T, H) of right-padded ids (B, T).

    No attention mask is given: under causal attention no token sees the padding to its right, and without a mask torch
    takes its fast causal kernel. What is at the padded places is never read.
    """
    states: Tensor = trunk_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    return states


def pooled_states(
    model: PreTrainedModel, batch: PaddedBatch, how: Pooling, run: Callable[[], Tensor] | None = None
) -> Tensor:
    """(K·B, H): what the head reads of each dialogue.

    `run` gets the trunk's last hidden states (K·B, T, H), K copies of the batch one below another; without it, the
    trunk reads the batch.
    """
    return pool(trunk_states(model, batch.ids) if run is None else run(), batch, how)


def pool(states: Tensor, batch: PaddedBatch, how: Pooling) -> Tensor:
    """States (K·B, T, H) of K copies of the batch -> (K·B, H): that of the last real token (EOS), or their mean.

    The last token is found by length, never by comparing ids with the pad token: a pad that equals EOS would hide EOS.
    The mean leaves the prompt out: both responses of a pair share it, and lengths would weigh it differently.
    """
    rows, width = batch.ids.shape
    copies = states.view(-1, rows, width, states.shape[-1])
    if how == "last":
        return copies[:, torch.arange(rows, device=states.device), batch.lengths - 1].flatten(0, 1)
    place = torch.arange(width, device=states.device)
    read = (place >= batch.starts.unsqueeze(1)) & (place < batch.lengths.unsqueeze(1))  # (B, T)
    weights = (read / read.sum(1, keepdim=True)).to(states.dtype)
    return (weights.unsqueeze(1) @ copies).flatten(0, 2)


def score_batch(model: PreTrainedModel, batch: PaddedBatch, how: Pooling) -> Tensor:
    """Scores (B,) in float32, with gradient where `model` has it. `model` is the classifier, adapters inside or not."""
    pooled = pooled_states(model, batch, how)
    layer = head(model)
    return layer(pooled.to(layer.weight.dtype)).squeeze(-1).float()


def fingerprint(model: PreTrainedModel, heads: bool = False) -> str:
    """Short hash of the trunk's weights (the first 256 of each tensor): tells whether an adapter belongs to this base.

    The same for a causal LM and the classifier made of it, adapters in its layers or not. `heads`: of all weights.
    """
    digest = hashlib.sha256()
    prefix = f"{trunk_name(model)}."
    for name, weight in sorted(model.state_dict(keep_vars=True).items()):
        if "lora_" in name or not (heads or name.startswith(prefix)):
            continue
        plain = name.replace(".base_layer.", ".")
        # rows alone may be added to an embedding (a pad token): the beginning stays
        # in bfloat16, so that the dtype it is loaded in does not matter
        with sharded.gathered([weight]):
            head_of = weight.detach().flatten()[:256].to(torch.bfloat16).float()
        digest.update(plain.encode() + head_of.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
