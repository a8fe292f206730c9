"""DPO of one policy for all weights: each pair is told weights of its own, by which its verdicts count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from morlaif.data.records import Pair
from morlaif.data.spool import Mapped
from morlaif.preference.model import Dialogue
from morlaif.rl import schedule
from morlaif.rl.steered import Steered
from morlaif.scalarize.objective import Objective
from morlaif.steer.conditioning import Shares, drawn


def shares_of_pairs(steered: Steered, split: str, count: int) -> list[Shares]:
    """(count, K) of the pairs of `split`, in their order: a function of the seed."""
    seed, steering = schedule.derive_seed(steered.seed, f"weights of {split}", 0), steered.steering
    return drawn(seed, count, len(steering.names), steered.alpha, steering.steps)


def told_pairs(steered: Steered, pairs: Sequence[Pair], shares: Sequence[Shares]) -> Sequence[Pair]:
    """The pairs with their weights told, under the names that their verdicts have."""
    return Mapped(lambda i: replace(pairs[i], messages=steered.told(pairs[i].messages, shares[i])), range(len(pairs)))


def pair_weights(steered: Steered, objective: Objective, shares: Sequence[Shares]) -> Tensor:
    """(N, K) of the principles of `objective`, negative where less is better; at the arm's own shares they are its."""
    told = steered.objective(objective, shares)
    return told.direction * told.weight


def plain_sides(
    sides: tuple[Sequence[Dialogue], Sequence[Dialogue]], prompt: Callable[[int], list[int]]
) -> tuple[Sequence[Dialogue], Sequence[Dialogue]]:
    """Each side behind the prompt of its pair without weights, as the reference reads it: the very tokens of the
    response, whatever the longer prompt has cut of it. `prompt`: its ids by the pair's place."""

    def behind(side: Sequence[Dialogue]) -> Sequence[Dialogue]:
        def of(i: int) -> Dialogue:
            ids, told = prompt(i), side[i]
            return Dialogue([*ids, *told.ids[told.start :]], len(ids))

        return Mapped(of, range(len(side)))

    return behind(sides[0]), behind(sides[1])
