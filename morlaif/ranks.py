"""One process or many: who this one is, and what all of them know together. In a single process nothing happens.

The process group is the default one of `torch.distributed`, whoever made it (accelerate's `PartialState`, a test).
Sums come out the same, bit for bit, on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from threading import Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
BUCKET = 2**25  # numbers in one all-reduce of gradients
SIGN_OF_LIFE = 10.0  # seconds after which a rank that others wait for says that it is still at work


def count() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Every `count()`-th item, from the place of this rank on; `unshare` undoes it."""
    return items[rank() :: count()]


def unshare(own: Sequence[T]) -> list[T]:
    """All items, in their order, from what each rank has of them after `share`. Any picklable items."""
    parts = gather(list(own))
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def gather(item: T) -> list[T]:
    """The item of every rank, in their order."""
    if count() == 1:
        return [item]
    items: list[Any] = [None] * count()
    dist.all_gather_object(items, item)
    return items


def mapped(
    function: Callable[..., Tensor], *columns: Sequence[Any], mistake: type[Exception] | tuple[type[Exception], ...]
) -> Tensor:
    """`function(*columns)` (N, K) for columns of N items, of which each rank asks for its share; all get all rows.

    Raises:
        mistake: on all ranks, where one of them met it.
    """
    if count() == 1:
        return function(*columns)
    own, error = torch.empty(0), None
    try:
        own = function(*map(share, columns))
    except mistake as raised:
        error = raised
    if errors := list(filter(None, gather(error))):
        raise errors[0]
    rows = unshare(own.tolist())
    return torch.tensor(rows, dtype=own.dtype) if rows else own


def everywhere(flag: bool, device: torch.device) -> bool:
    """Whether `flag` holds on every rank."""
    return count() == int(total(torch.tensor(int(flag), device=device)))


def concatenate(own: Sequence[T]) -> list[T]:
    """The items of rank 0, then those of rank 1 …"""
    return list(chain.from_iterable(gather(list(own))))


def total(x: Tensor) -> Tensor:
    """Sum over ranks, any shape."""
    if count() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def added(sums: dict[str, float]) -> dict[str, float]:
    """Sums of named numbers over ranks; a rank may lack some of the names."""
    if count() == 1:
        return sums
    whole: dict[str, float] = {}
    for own in gather(sums):
        for name, value in own.items():
            whole[name] = whole.get(name, 0.0) + value
    return whole


def broadcast(item: T) -> T:
    """What the first rank holds."""
    if count() == 1:
        return item
    box = [item]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    if count() > 1:
        dist.barrier()


def on_first(action: Callable[[], T], patiently: bool = False) -> T:
    """What `action` gives on the first rank, where alone it runs; if it raises, all ranks raise, so none waits.

    `patiently`: it may take longer than an exchange between ranks is allowed to; it then runs in a thread.
    """
    if count() == 1:
        return action()
    outcome: tuple[T | None, Exception | None] = (None, None)

    def run() -> None:
        nonlocal outcome
        try:
            outcome = (action(), None)
        except Exception as error:
            outcome = (None, error)

    if patiently:
        work = Thread(target=run if is_first() else lambda: None, daemon=True)
        work.start()
        work.join(SIGN_OF_LIFE)
        while broadcast(work.is_alive()):
            work.join(SIGN_OF_LIFE)
    elif is_first():
        run()
    value, error = broadcast(outcome)
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over ranks. All ranks have gradients of the same parameters."""
    if count() == 1:
        return
    bucket: list[Tensor] = []
    grads = [p.grad for p in parameters if p.grad is not None]
    for i, grad in enumerate(grads):
        bucket.append(grad)
        following = grads[i + 1] if i + 1 < len(grads) else None
        full = sum(g.numel() for g in bucket) >= BUCKET
        if full or following is None or following.dtype != grad.dtype:
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))
            bucket = []
