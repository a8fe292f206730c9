"""How far a policy is from the one that it began as, and what it is worth, on prompts that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import sharded
from morlaif.models.head import head_of, last_states
from morlaif.models.layers import trunk_of
from morlaif.rl.experience import collate, cut
from morlaif.rl.logprobs import logprobs_of


@torch.no_grad()
def response_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    *,
    temperature: float,
    rows: int,
    gather: float = math.inf,
) -> list[float]:
    """(N,) log-probability of each response behind its prompt, over all of its tokens; `rows` at once.

    Every rank that makes the call computes all rows: forwards of weights in parts are then the same for all. These are
    gathered whole for it if they take at most `gather` bytes, else module by module.
    """
    head, trunk = head_of(model), trunk_of(model)
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    found = [0.0] * len(responses)
    with sharded.ready_to_sample(model, gather):
        for some in cut(range(len(responses)), lengths, rows, 1):
            batch = collate(
                [prompts[i] for i in some], [responses[i] for i in some], tokenizer.pad_token_id or 0, model.device
            )
            states = last_states(trunk, batch.ids, batch.positions).flatten(0, 1).index_select(0, batch.read)
            logprobs = logprobs_of(head, states, batch.targets, temperature)[0]
            for row, own in zip(some, batch.unpack(logprobs).double().sum(1).tolist(), strict=True):
                found[row] = own
    return found
