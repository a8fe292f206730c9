"""Batched sampling from a causal language model.

The loop is our own for what `transformers.generate` does not give: rows that end leave the batch, a stop string is
looked for in each row's own text, and the noise comes from one explicit generator, a number for each row and step: what
one row draws does not depend on when the others end, so two policies under one generator state meet the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.errors import UserError
from morlaif.models.decode import decoder
from morlaif.models.ends import Ends

# Leaving costs one copy of the key-value cache, so rows leave together: as soon as this share of the batch has ended.
COMPACT_AT = 0.125
MANY = 2**14  # ids from which a draw looks for its block first
Drawn = tuple[list[int], list[float]]  # ids, and the log-probability of each where that was asked for


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    batch_size: int,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    gather: float = math.inf,
    logprobs: list[list[float]] | None = None,
    fixed: bool | None = None,
) -> list[list[int]]:
    """Continue each prompt by at most `max_new_tokens` ids.

    A continuation is what was sampled, to the id that ended it: an end of turn, or the one that completes a stop
    string, which cuts the text alone (`morlaif.models.ends`). Temperature 0 is greedy. Prompts of like length share a
    batch; results are in the order given. The same generator state and arguments give the same ids. `noise` (rows,
    max_new_tokens), uniform on [0, 1), takes the generator's place: each row's own noise, whichever rows are generated
    with it. A list `logprobs` is filled with the log-probabilities of each row's ids at this temperature. `fixed`: see
    `decoder`.

    Several ranks make the same call; each samples its share, `batch_size` rows at once, and all get all rows. Weights
    that lie in parts are gathered whole for it if they take at most `gather` bytes (`sharded.ready_to_sample`).

    Raises:
        UserError: an empty prompt, or one too long for the model's positions.
    """
    _check(model, tokenizer, prompts, max_new_tokens)
    order = longest_first(prompts)
    if noise is None:
        noise = draw_noise(prompts, max_new_tokens, generator, model.device)
    own = ranks.share(order)
    batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    ends, pad = Ends.of(model, tokenizer, stop), tokenizer.pad_token_id or 0
    found: dict[int, Drawn] = {}
    with _inference(model), sharded.ready_to_sample(model, gather) as in_step:
        turns = -(-len(order) // (ranks.count() * batch_size)) if in_step else len(batches)
        for turn in range(turns):
            rows = batches[turn] if turn < len(batches) else order[-1:]  # one for company
            batch = [list(prompts[row]) for row in rows]
            how = (max_new_tokens, temperature, top_p, noise[rows], in_step, logprobs is not None, fixed)
            done = generate_batch(model, pad, batch, ends, *how)
            found |= zip(rows, done, strict=True)
    answers = dict(zip(order, ranks.unshare([found[row] for row in own]), strict=True))
    if logprobs is not None:
        logprobs[:] = [answers[row][1] for row in range(len(prompts))]
    return [answers[row][0] for row in range(len(prompts))]


def _check(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no eos token: generation could not end; set `eos_token` in its config")
    limit = getattr(model.config, "max_position_embeddings", None)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {row} is empty: generation needs at least one token to start from")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise UserError(
                f"prompt {row} has {len(prompt)} tokens; with {max_new_tokens} new ones that exceeds the model's "
                f"{limit} positions: lower max_new_tokens or the prompt's max_length"
            )


def longest_first(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The order in which rows are sampled: those of a batch are of like length, and memory peaks at once."""
    return sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))


def draw_noise(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Noise (rows, max_new_tokens) for `prompts`, drawn for the longest first."""
    drawn = draw(len(prompts), max_new_tokens, generator, device)
    noise = torch.empty_like(drawn)
    noise[longest_first(prompts)] = drawn
    return noise


def draw(rows: int, steps: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Noise (rows, steps), drawn on the generator's own device: that of a CPU does not depend on the model's."""
    source = generator.device if generator is not None else device
    return torch.rand(rows, steps, dtype=torch.float64, generator=generator, device=source)


def sample(logits: Tensor, temperature: float, top_p: float, noise: Tensor) -> Tensor:
    """One id for each row of `logits` (B, V) -> (B,), where `noise` (B,) is uniform on [0, 1). Temperature 0 is greedy.

    Inverse of the cumulative distribution, in float64: the first id whose cumulative probability exceeds the noise, so
    that an id of probability 0 is never drawn.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    probs = torch.softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    if top_p < 1:
        probs = nucleus(probs, top_p)
    noise = noise.double()[:, None]
    if probs.shape[1] < MANY:
        return _invert(probs.cumsum(-1, dtype=torch.float64), noise, None)
    # which block first, then which id in it: no cumulative sum over all is made
    width = math.isqrt(probs.shape[1])
    whole = probs.shape[1] // width * width
    sums = probs[:, :whole].unflatten(1, (-1, width)).sum(-1)
    sums = torch.cat([sums, probs[:, whole:].sum(-1, keepdim=True)], 1).cumsum(-1, dtype=torch.float64)
    block = _invert(sums, noise, None)[:, None]
    below = nn.functional.pad(sums, (1, 0)).gather(1, block)
    places = block * width + torch.arange(width, device=probs.device)
    there = places < probs.shape[1]
    within = probs.gather(1, places.clamp(max=probs.shape[1] - 1)) * there
    found = _invert(within.cumsum(-1, dtype=torch.float64), noise, sums[:, -1:], below)
    return block[:, 0] * width + found


def _invert(cumulative: Tensor, noise: Tensor, total: Tensor | None, below: Tensor | float = 0.0) -> Tensor:
    """(B, n) cumulative sums that begin at `below`, noise (B, 1) -> (B,) the first place that exceeds noise · total."""
    own = cumulative[:, -1:]
    wanted = noise * (own if total is None else total) - below
    return torch.searchsorted(cumulative, wanted.minimum(own.nextafter(torch.zeros_like(own))), right=True).squeeze(-1)


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of most likely ids whose mass reaches `top_p` (Holtzman et al., 1904.09751).

    (B, V) -> (B, V), not renormalised. The most likely id always stays.
    """
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # mass of the more likely ids
    keep = before < top_p
    keep[..., 0] = True
    return torch.zeros_like(probs).scatter(-1, index, ordered * keep)


def generate_batch(
    model: PreTrainedModel,
    pad: int,
    prompts: list[list[int]],
    ends: Ends,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    noise: Tensor,
    in_step: bool = False,
    watched: bool = False,
    fixed: bool | None = None,
) -> list[Drawn]:
    """One batch of `generate`, on this process alone.

    Args:
        noise: (B, max_new_tokens).
        in_step: each forward is an exchange between ranks, so none stops before the last.
        watched: with log-probabilities.
    """
    device = model.device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)  # (B, T), padded on the left
    room = width + max_new_tokens
    mask = torch.tensor([[0] * (width - len(p)) + [1] * (room - width + len(p)) for p in prompts], device=device)
    positions = (mask[:, :width].cumsum(-1) - 1).clamp(min=0)
    steps = decoder(model, room, fixed)
    noise = noise.to(device)

    results: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    seats = list(range(len(prompts)))  # which row sits at each place of the batch
    open_rows = set(seats)
    for step in range(max_new_tokens):
        logits = steps.step(ids, mask[:, : width + step], positions)
        picked = sample(logits, temperature, top_p, noise[:, step])
        seen = logprob(logits, picked, temperature).tolist() if watched else [0.0] * len(seats)
        for row, token, own in zip(seats, picked.tolist(), seen, strict=True):
            if row not in open_rows:
                continue
            results[row].append(token)
            logprobs[row].append(own)
            if ends.ended(results[row]):
                open_rows.remove(row)
        if ranks.everywhere(not open_rows, device) if in_step else not open_rows:
            break

        ids, positions = picked[:, None], positions[:, -1:] + 1
        if steps.shrinks and open_rows and len(seats) - len(open_rows) >= max(1, COMPACT_AT * len(seats)):
            places = [place for place, row in enumerate(seats) if row in open_rows]
            kept = torch.tensor(places, device=device)
            steps.keep(kept)
            ids, positions, mask, noise = ids[kept], positions[kept], mask[kept], noise[kept]
            seats = [seats[place] for place in places]
    return list(zip(results, logprobs, strict=True))


def logprob(logits: Tensor, picked: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) (B, V) at `picked` (B,), float32; no table of it is made."""
    scaled = logits.float() / temperature
    return scaled.gather(1, picked[:, None])[:, 0] - scaled.logsumexp(1)


@contextmanager
def _inference(model: PreTrainedModel) -> Iterator[None]:
    """No gradients and no dropout inside; the model's mode is restored afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
