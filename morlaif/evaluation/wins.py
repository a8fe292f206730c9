"""Win rates of pairs of policies on shared prompts: plain, with length taken out, and compared with one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

from morlaif.data.records import Message
from morlaif.evaluation.judges import PolicyJudge
from morlaif.evaluation.length_control import LengthControlled, length_controlled
from morlaif.evaluation.results import SFT, Difference, Rate, known, parts
from morlaif.statistics import Array, Resampling, WinRate, bootstrap_mean, outcomes, win_rate

Two = tuple[str, str]  # policies


@dataclass(frozen=True)
class Contest:
    """What came of two policies' answers to the same prompts."""

    outcome: Array  # (N,) of the first policy on each prompt; NaN without a valid verdict
    win_rate: WinRate
    length_controlled: LengthControlled
    length_ratio_controlled: LengthControlled  # as RLAIF takes the effect out

    @property
    def rate(self) -> Rate:
        found = self.win_rate
        win, tie, loss, flip = (known(share) for share in (found.win, found.tie, found.loss, found.flip_rate))
        return Rate(*parts(found.rate), win, tie, loss, flip, found.invalid)


def versus(first: str, second: str) -> str:
    """What results call the comparison of two policies."""
    return f"{first}_vs_{second}"


def contests(arms: Sequence[str], others: Sequence[str] = ()) -> list[Two]:
    """Every arm against SFT; the run's policy, which is the first arm, against every other; every outside policy
    against SFT, and the run's policy against it."""
    policy, *rest = arms
    pairs = [(arm, SFT) for arm in arms] + [(policy, arm) for arm in rest]
    return pairs + [pair for other in others for pair in ((policy, other), (other, SFT))]


def judge_all(
    judge: PolicyJudge,
    prompts: Sequence[list[Message]],
    responses: Mapping[str, Sequence[str]],
    pairs: Sequence[Two],
    **how: Unpack[Resampling],
) -> dict[Two, Contest]:
    """`responses`: the texts of each policy, in the order of the prompts. Length is counted in characters, which
    policies with different tokenizers share."""
    made = {}
    for first, second in pairs:
        verdict = judge.compare(prompts, responses[first], responses[second])
        outcome = outcomes(verdict.forward, verdict.backward, verdict.valid)
        lengths = [[len(text) for text in responses[name]] for name in (first, second)]
        made[first, second] = Contest(
            outcome,
            win_rate(verdict.forward, verdict.backward, verdict.valid, **how),
            length_controlled(outcome, *lengths, confidence=how["confidence"]),
            length_controlled(outcome, *lengths, confidence=how["confidence"], by="ratio"),
        )
    return made


def paired(found: Mapping[Two, Contest], **how: Unpack[Resampling]) -> list[Difference]:
    """Every two policies that were compared with the same third: the difference of their win rates, over the prompts
    on which both have a verdict. It is surer than two win rates side by side."""
    keys, made = list(found), []
    for i, (first, against) in enumerate(keys):
        for other, same in keys[i + 1 :]:
            if same == against:
                difference = found[first, against].outcome - found[other, against].outcome
                interval = bootstrap_mean(difference, **how)
                made.append(Difference(*parts(interval), first=first, second=other, against=against))
    return made
