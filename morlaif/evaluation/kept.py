"""Policies that were kept while they learnt: proxy, gold and win rate over the KL that each had come to.

The figure of over-optimisation (Gao et al., 2210.10760): the score that a policy is trained on rises with its distance
from where it began, what it stands for rises, and may then fall.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from morlaif.evaluation.policies import Answered
from morlaif.evaluation.results import Estimate, KeptPolicy
from morlaif.evaluation.wins import Contest
from morlaif.statistics import Array, Resampling, bootstrap_mean

KEPT = "kept"  # inside the artifact of a policy: a folder for each, loaded as the policy itself is


def kept_folder(policy: Path, step: int) -> Path:
    return policy / KEPT / f"step-{step:06d}"


def kept_policies(policy: Path) -> Iterator[tuple[int, Path]]:
    """Steps and folders of what the artifact of a policy has kept, in their order."""
    for folder in sorted((policy / KEPT).glob("step-*")):
        if found := re.fullmatch(r"step-(\d+)", folder.name):
            yield int(found[1]), folder


def kl_at(curve: Sequence[Mapping[str, Any]], step: int) -> float | None:
    """The KL of the policy after a step, nats a response: on held-out prompts, else on the next step's rollouts."""
    row = next((row for row in curve if row["step"] == step), {})
    after: Mapping[str, Any] = next((row for row in curve if row["step"] == step + 1), {})
    found = row.get("eval/kl", after.get("kl"))
    return None if found is None else float(found)


def measured(
    step: int,
    curve: Sequence[Mapping[str, Any]],
    answer: Answered,
    base: Answered,
    won: Contest,
    proxy: Array | None,
    **how: Unpack[Resampling],
) -> KeptPolicy:
    """One policy. base: the answers of SFT. proxy: (N,) what the objective says of its answers less what it says of
    SFT's; without one, what training measured on its own held-out prompts."""
    row = next((row for row in curve if row["step"] == step), {})
    gained = None
    if proxy is not None:
        gained = Estimate.of(bootstrap_mean(proxy, **how))
    elif "eval/gain" in row:
        gained = Estimate(row["eval/gain"], row["eval/gain_low"], row["eval/gain_high"], 0)
    gold = None
    if answer.utility is not None and base.utility is not None:
        gold = Estimate.of(bootstrap_mean(answer.utility - base.utility, **how))
    return KeptPolicy(step, kl_at(curve, step), gained, gold, won.rate, answer.responses.facts().tokens)
