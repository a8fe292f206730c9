"""One dialogue, K questions about it, one pass: the form of the kind `conditioned`.

A reward model that reads the principle it is to judge by (Sun et al., SALMON, 2310.05910). The principle's text stands
after the dialogue, so that under causal attention the dialogue's states do not depend on it: they are computed once,
and the K questions stand side by side behind them, each blind to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from morlaif.preference.model import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def question_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a principle's text, closed by the EOS whose state the head reads."""
    ids = tokenizer("\n\n" + text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def question_states(model: nn.Module, batch: Batch, questions: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states (B, K, H) at the end of each question, as if each stood alone behind each dialogue."""
    device, (rows, width) = batch.ids.device, batch.ids.shape
    tail = torch.tensor([token for question in questions for token in question], device=device)
    owner = torch.tensor([k for k, question in enumerate(questions) for _ in question], device=device)
    offset = torch.tensor([i for question in questions for i in range(len(question))], device=device)

    ids = torch.cat([batch.ids, tail.expand(rows, -1)], dim=1)
    place = torch.arange(width, device=device)
    positions = torch.cat([place.expand(rows, -1), batch.lengths.unsqueeze(1) + offset], dim=1)

    # who sees whom, (B, L, L): the dialogue what came before it; a question the dialogue and its own beginning
    total = width + len(tail)
    seen = torch.zeros(rows, total, total, dtype=torch.bool, device=device)
    seen[:, :width, :width] = place.unsqueeze(1) >= place
    seen[:, width:, :width] = (place < batch.lengths.unsqueeze(1)).unsqueeze(1)
    seen[:, width:, width:] = (owner.unsqueeze(1) == owner) & (offset.unsqueeze(1) >= offset)
    dtype = next(model.parameters()).dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)

    trunk = getattr(model, model.base_model_prefix)
    states = trunk(
        input_ids=ids, position_ids=positions, attention_mask=mask.unsqueeze(1), use_cache=False
    ).last_hidden_state
    ends = width - 1 + torch.tensor([len(question) for question in questions], device=device).cumsum(0)
    return states[:, ends]
