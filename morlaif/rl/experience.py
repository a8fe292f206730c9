"""What one step of PPO learns from, and how rows of it become a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from morlaif import ranks

# Batch widths are multiples of this: on a GPU fewer shapes, and what tensor cores like; a CPU computes what is there.
BUCKET = {"cpu": 1}


@dataclass(frozen=True)
class Experience:
    """B sampled responses of at most T tokens and all that was found out about them.

    A response's tokens include the one that ended it. Token tensors are padded on the right; outside `mask` they mean
    nothing.
    """

    prompts: list[list[int]]  # B rows of ids
    responses: list[list[int]]  # B rows of ids, at most T long
    texts: list[str]  # B decoded responses, as the reward saw them
    mask: Tensor  # (B, T) bool: a token of the response
    value_mask: Tensor  # (B, T) bool: a state that the critic values; more than `mask` where scores are paid after EOS
    ended: Tensor  # (B,) bool: by an end of turn or a stop string, not at the limit of its length
    stopped: Tensor  # (B,) bool: by a stop string
    scores: Tensor  # (B, K) of each principle, as the reward gave them
    reward: Tensor  # (B,) scalarized, before shaping and KL
    shaped: Tensor  # (B,) scaled, clipped, punished: what is paid at the last token
    logprobs: Tensor  # (B, T) of the sampled tokens under the policy as it was, from the training forward
    ref_logprobs: Tensor  # (B, T) under the reference
    entropy: Tensor  # (B, T) of the policy before each token
    values: Tensor  # (B, T) the critic's estimate before each token; zero without a critic
    rewards: Tensor  # (B, T) -β·kl, plus `shaped` at the last token, (1 - β) times it where `kl.convex`
    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T) the critic's target
    weights: Tensor | None = None  # (B, T) of the policy's loss, where what samples differs from what learns


@dataclass(frozen=True)
class Batch:
    """m dialogues of at most W tokens, padded on the right, with N response tokens in all.

    Padding on the right needs no attention mask: a causal model never looks that way. Positions are explicit.
    """

    ids: Tensor  # (m, W)
    positions: Tensor  # (1, W) 0 … W - 1
    read: Tensor  # (N,) places, in the flattened batch, of the states before response tokens
    targets: Tensor  # (N,) the response tokens, row after row
    mask: Tensor  # (m, T) bool: where those N are in a padded response
    lengths: tuple[int, ...]  # tokens of each dialogue

    def unpack(self, packed: Tensor) -> Tensor:
        """(N,) -> (m, T), zero on padding."""
        return packed.new_zeros(self.mask.shape).masked_scatter(self.mask, packed)

    @cached_property
    def packed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same dialogues one behind the other in one row: ids and positions (1, L), L the sum of their lengths, and
        `read` (N,) in it. Positions begin anew with each dialogue."""
        width, device = self.ids.shape[1], self.ids.device
        real = torch.cat([row * width + torch.arange(length) for row, length in enumerate(self.lengths)]).to(device)
        positions = torch.cat([torch.arange(length) for length in self.lengths]).to(device)
        return self.ids.flatten()[real][None], positions[None], torch.searchsorted(real, self.read)


@dataclass(frozen=True)
class Minibatch:
    """What one update learns from: some rows of an `Experience`, cut into micro-batches that the ranks share.

    A rank takes every n-th micro-batch; where that does not come out even, some get one without rows, whose loss is
    nothing, since a sharded model wants the same number of forwards from all.
    """

    responses: int  # all its rows, on all ranks
    tokens: int  # response tokens, likewise
    states: int  # states that the critic values, likewise
    micro: list[tuple[list[int], Batch]]  # this rank's: rows, and their batch


def plan_minibatch(
    micro: Sequence[list[int]],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad: int,
    device: torch.device,
    room: int | None = None,
) -> Minibatch:
    """This rank's part of a minibatch whose micro-batches are `micro`, collated. `room`: see `with_end`."""
    read = responses if room is None else with_end(responses, pad, room)

    def collated(rows: list[int]) -> Batch:
        return collate([prompts[row] for row in rows], [read[row] for row in rows], pad, device)

    own = [(rows, collated(rows)) for rows in ranks.share(micro)]
    if len(own) < -(-len(micro) // ranks.count()):
        own.append(([], collated(micro[0])))
    tokens, states = (sum(len(ids[row]) for rows in micro for row in rows) for ids in (responses, read))
    return Minibatch(sum(map(len, micro)), tokens, states, own)


def with_end(responses: Sequence[Sequence[int]], pad: int, room: int) -> list[list[int]]:
    """Each response with one more place, whose state is the one after EOS; those of `room` tokens have none."""
    return [[*ids, pad] if len(ids) < room else list(ids) for ids in responses]


def collate(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, device: torch.device
) -> Batch:
    """Prompt and response of each row, contiguous, then padding up to a multiple of `BUCKET`."""
    longest = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    bucket = BUCKET.get(device.type, 8)
    width = -(-longest // bucket) * bucket
    ids: list[list[int]] = []
    states: list[int] = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        length = len(prompt) + len(response)
        ids.append([*prompt, *response, *[pad] * (width - length)])
        states.extend(range(row * width + len(prompt) - 1, row * width + length - 1))
    return Batch(
        ids=torch.tensor(ids, device=device),
        positions=torch.arange(width, device=device)[None],
        read=torch.tensor(states, device=device),
        targets=torch.tensor([token for response in responses for token in response], device=device),
        mask=response_mask(responses).to(device),
        lengths=tuple(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)),
    )


def response_mask(responses: Sequence[Sequence[int]]) -> Tensor:
    """(B, T) bool, T the longest response."""
    lengths = torch.tensor([len(response) for response in responses])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def partition(
    lengths: Sequence[int],
    minibatches: int,
    micro_batch_size: int,
    generator: torch.Generator,
    processes: int = 1,
    kept: Sequence[int] | None = None,
) -> list[list[list[int]]]:
    """Rows of one pass: minibatches chosen at random, each cut into micro-batches of like length.

    Which rows share a minibatch depends on the generator alone, never on `micro_batch_size` or `processes`.

    Args:
        lengths: of all rows.
        kept: those that are learnt from, all if none are given; fewer than minibatches make as many as they are.
    """
    kept = range(len(lengths)) if kept is None else kept
    order = torch.randperm(len(kept), generator=generator)
    passes = []
    for places in order.tensor_split(minibatches):
        if len(places):
            passes.append(cut([kept[place] for place in places.tolist()], lengths, micro_batch_size, processes))
    return passes


def cut(rows: Sequence[int], lengths: Sequence[int], size: int, processes: int) -> list[list[int]]:
    """`rows` in micro-batches of like length, of at most `size` rows, and few enough for each process to have one."""
    by_length = sorted(rows, key=lambda row: (lengths[row], row))
    size = min(size, -(-len(by_length) // processes))
    return [by_length[i : i + size] for i in range(0, len(by_length), size)]
