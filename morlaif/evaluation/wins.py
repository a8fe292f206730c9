"""Win rates of pairs of policies on shared prompts: plain, with length taken out, and compared with one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from morlaif.data.records import Message
from morlaif.evaluation.judges import Judge
from morlaif.evaluation.length_control import LengthControlled, length_controlled
from morlaif.statistics import Array, WinRate, bootstrap_mean, outcomes, win_rate

SFT, SINGLE = "sft", "single"


@dataclass(frozen=True)
class Compared:
    outcome: Array  # (N,) of the first policy on each prompt; NaN without a valid verdict
    rate: WinRate
    controlled: LengthControlled


def comparisons(arms: Sequence[str], others: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every arm against SFT; every other arm against the baseline; every outside policy against SFT, and the run's
    own (the first arm) against it."""
    pairs = [(arm, SFT) for arm in arms] + [(arm, SINGLE) for arm in arms if SINGLE in arms and arm != SINGLE]
    return pairs + [pair for other in others for pair in ((arms[0], other), (other, SFT))]


def compare(
    judge: Judge,
    prompts: Sequence[list[Message]],
    responses: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int,
    resamples: int,
    confidence: float,
) -> dict[tuple[str, str], Compared]:
    """`responses`: the texts of each policy, in the order of the prompts. Length is counted in characters, which
    policies with different tokenizers share."""
    how = {"seed": seed, "resamples": resamples, "confidence": confidence}
    made = {}
    for first, second in pairs:
        verdict = judge.compare(prompts, responses[first], responses[second])
        outcome = outcomes(verdict.forward, verdict.backward, verdict.valid)
        lengths = ([len(text) for text in responses[name]] for name in (first, second))
        made[first, second] = Compared(
            outcome,
            win_rate(verdict.forward, verdict.backward, verdict.valid, **how),
            length_controlled(outcome, *lengths, confidence=confidence),
        )
    return made


def paired(compared: Mapping[tuple[str, str], Compared], **how: Any) -> list[dict[str, Any]]:
    """Every two policies that were compared with the same third: the difference of their win rates, over the prompts
    on which both have a verdict. It is surer than two win rates side by side."""
    keys, made = list(compared), []
    for i, (first, against) in enumerate(keys):
        for other, same in keys[i + 1 :]:
            if same == against:
                difference = compared[first, against].outcome - compared[other, against].outcome
                interval = bootstrap_mean(difference, **how)
                made.append({"first": first, "second": other, "against": against, **interval.as_dict()})
    return made
