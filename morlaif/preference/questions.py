"""One dialogue, K questions about it, one pass: the form of the kind `conditioned`.

A reward model that reads the principle it is to judge by (Sun et al., SALMON, 2310.05910). The principle's text comes
after the dialogue, so that under causal attention the dialogue's states do not depend on it: they are computed once,
and the K questions follow them side by side, each blind to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from morlaif.errors import UserError
from morlaif.models.layers import trunk_of
from morlaif.preference.model import PaddedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def question_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a principle's text, closed by the EOS whose state the head reads."""
    ids = tokenizer("\n\n" + text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def question_states(model: PreTrainedModel, batch: PaddedBatch, questions: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states (B, K, H) at the end of each question, as if each were alone behind each dialogue."""
    return row_question_states(model, batch, [questions])


def row_question_states(
    model: PreTrainedModel, batch: PaddedBatch, questions: Sequence[Sequence[Sequence[int]]]
) -> Tensor:
    """The same for questions of each row's own, K of each; or of one row's, for all rows."""
    device, (rows, width) = batch.ids.device, batch.ids.shape
    longest = max(sum(map(len, own)) for own in questions)

    def padded(of_row: Callable[[Sequence[Sequence[int]]], list[int]], fill: int) -> Tensor:
        """(B, longest)"""
        values = [of_row(own) for own in questions]
        filled = [own + [fill] * (longest - len(own)) for own in values]
        return torch.tensor(filled, device=device).expand(rows, -1)

    asked = padded(lambda own: [token for question in own for token in question], 0)
    owner = padded(lambda own: [k for k, question in enumerate(own) for _ in question], -1)
    offset = padded(lambda own: [i for question in own for i in range(len(question))], 0)

    ids = torch.cat([batch.ids, asked], dim=1)
    place = torch.arange(width, device=device)
    positions = torch.cat([place.expand(rows, -1), batch.lengths.unsqueeze(1) + offset], dim=1)

    # who sees whom, (B, L, L): the dialogue what came before it; a question the dialogue and its own beginning
    total = width + longest
    seen = torch.zeros(rows, total, total, dtype=torch.bool, device=device)
    seen[:, :width, :width] = place.unsqueeze(1) >= place
    seen[:, width:, :width] = (place < batch.lengths.unsqueeze(1)).unsqueeze(1)
    same = owner.unsqueeze(2) == owner.unsqueeze(1)
    seen[:, width:, width:] = same & (offset.unsqueeze(2) >= offset.unsqueeze(1))

    trunk = trunk_of(model)
    masks = _masks(model, seen, positions)
    states = trunk(input_ids=ids, position_ids=positions, attention_mask=masks, use_cache=False).last_hidden_state
    ends = torch.tensor([[len(question) for question in own] for own in questions], device=device).cumsum(1)
    return states[torch.arange(rows, device=device).unsqueeze(1), (width - 1 + ends).expand(rows, -1)]


def check_questions(model: PreTrainedModel) -> None:
    """Ask a model two short questions side by side, and each alone.

    Raises:
        UserError: the answers differ, or it has layers for which no mask can part the questions (recurrent ones, say).
    """
    device = next(model.parameters()).device
    ids = torch.tensor([[3, 5, 4, 6], [4, 3, 0, 0]], device=device)
    batch = PaddedBatch(ids, torch.ones(2, dtype=torch.long, device=device), torch.tensor([4, 2], device=device))
    questions = [[5, 3], [4, 6, 3]]
    trunk, training = trunk_of(model), model.training
    model.eval()
    try:
        with torch.no_grad():
            found = question_states(model, batch, questions).float()
            alone = torch.empty_like(found)
            for row, length in enumerate((4, 2)):
                for k, question in enumerate(questions):
                    whole = torch.tensor([[*ids[row, :length].tolist(), *question]], device=device)
                    alone[row, k] = trunk(input_ids=whole, use_cache=False).last_hidden_state[0, -1].float()
    except (TypeError, ValueError, KeyError, RuntimeError) as error:  # each architecture has its own
        name = type(model).__name__
        raise UserError(f"pm=conditioned: {name} takes no positions or masks ({error}); {_INSTEAD}") from None
    finally:
        model.train(training)
    exact = next(model.parameters()).dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
    if (found - alone).abs().max() > (1e-3 if exact else 0.1) * alone.abs().max():
        raise UserError(
            f"pm=conditioned: {type(model).__name__} reads several questions in one pass otherwise than each alone; "
            f"{_INSTEAD}"
        )


_INSTEAD = "use pm=heads or pm=lora"


def _masks(model: PreTrainedModel, seen: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
    """Additive masks (B, 1, L, L) as the trunk takes them: one, or one for each kind of layer that its config names.

    `seen` (B, L, L): who sees whom where attention is full. Windows and chunks are counted in positions, not in
    places: questions come side by side, but each as if right behind its dialogue.
    """
    config = model.config.get_text_config()
    device_type = seen.device.type
    dtype = next(model.parameters()).dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)

    def additive(kind: str) -> Tensor:
        allowed = seen & _near(kind, config, positions)
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)

    if (kinds := getattr(config, "layer_types", None)) is not None:
        return {kind: additive(kind) for kind in sorted(set(kinds))}
    if getattr(config, "sliding_window", None) is not None:
        return additive("sliding_attention")
    return additive("full_attention" if getattr(config, "attention_chunk_size", None) is None else "chunked_attention")


def _near(kind: str, config: PreTrainedConfig, positions: Tensor) -> Tensor:
    """(B, L, L) or (1,) bool: what a layer of this kind may see at all, as transformers' own masks have it."""
    asking, asked = positions.unsqueeze(2), positions.unsqueeze(1)
    match kind:
        case "full_attention":
            return torch.ones(1, dtype=torch.bool, device=positions.device)
        case "sliding_attention":
            return asked > asking - config.sliding_window
        case "chunked_attention":
            return asked // config.attention_chunk_size == asking // config.attention_chunk_size
    raise UserError(f"pm=conditioned: the base has layers of the kind '{kind}', which no mask parts; {_INSTEAD}")
