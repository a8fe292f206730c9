"""One policy for all weights: how weights are drawn while it trains, how it is told them, what tells others of that.

    text   a system turn says them, as in RiC (arXiv 2402.10207) and DPA (arXiv 2402.18571), in words of our own
    lora   rank-one parts of its adapter are scaled by them, as in Panacea (arXiv 2402.02030): `morlaif.steer.parts`

Weights are shares: none below zero, 1 together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from morlaif.data.records import Message
from morlaif.errors import Damaged, UserError, suggest
from morlaif.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "steer.json"  # beside the model of a policy that takes weights
Shares = tuple[float, ...]  # (K,)


@dataclass(frozen=True)
class Steering:
    """How one policy takes its weights."""

    kind: Literal["text", "lora"]
    names: tuple[str, ...]  # the K principles that have a weight, in the order in which they are told
    own: Shares  # those of the arm that trained it: what it answers by where nobody says others
    steps: int = 100  # of which text tells each weight so many: 10 of them are 0%, 10%, … 100%
    folder: Path | None = field(default=None, compare=False)  # where it was read

    def told(self, messages: Sequence[Message], weights: Mapping[str, float]) -> list[Message]:
        """The dialogue with a system turn, or a longer one, that says the weights; as it is where the kind is lora."""
        shares = shares_of(weights, self.names)
        if self.kind == "lora":
            return list(messages)
        line = spoken(self.names, shares, self.steps)
        if messages and messages[0]["role"] == "system":
            first: Message = {"role": "system", "content": f"{messages[0]['content']}\n\n{line}"}
            return [first, *messages[1:]]
        return [{"role": "system", "content": line}, *messages]

    def at(self, model: PreTrainedModel, weights: Mapping[str, float]) -> PreTrainedModel:
        """`model`, the policy of this folder as `load_policy` gives it, at other weights; as often as one likes."""
        shares = shares_of(weights, self.names)
        if self.kind == "lora":
            from morlaif.steer.parts import aim

            assert self.folder is not None  # of a policy that lies somewhere
            aim(model, self.folder, [share - own for share, own in zip(shares, self.own, strict=True)])
        return model

    @property
    def usual(self) -> dict[str, float]:
        """The arm's own weights by name."""
        return dict(zip(self.names, self.own, strict=True))

    def write(self, folder: Path) -> None:
        """Leave it beside the policy in `folder`."""
        known = {"kind": self.kind, "weights": self.usual, "steps": self.steps}
        example = {"example": spoken(self.names, self.own, self.steps)} if self.kind == "text" else {}
        text = json.dumps({**known, **example}, indent=2, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_steering(folder: Path) -> Steering | None:
    """What `Steering.write` left in `folder`; None where the policy there takes no weights.

    Raises:
        Damaged: the file is not as it was written.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    found = read_json(file, "how a policy takes weights", of=dict, failure=Damaged)
    try:
        weights = {str(name): float(share) for name, share in found["weights"].items()}
        return Steering(found["kind"], tuple(weights), tuple(weights.values()), int(found["steps"]), Path(folder))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged(f"{file}: not as this version writes it: damaged, or written by another version") from None


def usual_prompts(folder: Path, prompts: Sequence[list[Message]]) -> list[list[Message]]:
    """The prompts as the policy in `folder` reads them: told its arm's own weights, where it takes weights by text."""
    steering = read_steering(folder)
    return list(prompts) if steering is None else [steering.told(one, steering.usual) for one in prompts]


def shares_of(weights: Mapping[str, float], names: Sequence[str], key: str = "weights") -> Shares:
    """The weight of each of `names` over their sum; of those not given, zero.

    Raises:
        UserError: a name that is none of them, a number below zero or none at all, or nothing above zero.
    """
    for name, weight in weights.items():
        if name not in names:
            raise UserError(f"{key}: no principle '{name}'; it takes {', '.join(names)}.{suggest(name, names)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"{key}: {name}: {weight:g} should be a number from 0 on")
    whole = math.fsum(weights.values())
    if not whole > 0:
        raise UserError(f"{key}: all are zero; give one of {', '.join(names)} a number above 0")
    return tuple(weights.get(name, 0.0) / whole for name in names)


def spoken(names: Sequence[str], shares: Sequence[float], steps: int = 100) -> str:
    """What a policy is told: percents in equal steps, which sum to 100.

    >>> spoken(["detail", "conciseness"], [2 / 3, 1 / 3], 10)
    'What counts: detail 70%, conciseness 30%.'
    """
    parts = zip(names, rounded(shares, steps), strict=True)
    told = (f"{name.replace('_', ' ')} {100 * part / steps:g}%" for name, part in parts)
    return f"What counts: {', '.join(told)}."


def rounded(shares: Sequence[float], steps: int) -> tuple[int, ...]:
    """(K,) shares of 1 as whole numbers that sum to `steps`, by largest remainders, the first of equal ones before."""
    exact = [steps * share for share in shares]
    found = [math.floor(x + 1e-9) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (round(found[k] - exact[k], 9), k))
    for k in by_remainder[: steps - sum(found)]:
        found[k] += 1
    return tuple(found)


def drawn(seed: int, count: int, principles: int, alpha: float, steps: int) -> list[Shares]:
    """`count` draws from the symmetric Dirichlet distribution, in equal steps: a function of its arguments.

    What is rewarded is then exactly what a policy can be told.
    """
    found = np.random.default_rng(seed).dirichlet([alpha] * principles, size=count)
    return [tuple(part / steps for part in rounded(row, steps)) for row in found.tolist()]
