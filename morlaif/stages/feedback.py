"""Stage `feedback`: a verdict for each pair under one principle, or under a constitution of several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from morlaif.feedback.settings import Company, FeedbackSettings, Principle
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage


@dataclass(frozen=True, kw_only=True)
class FeedbackReads(Reads):
    feedback: FeedbackSettings
    principle: Principle | None = None  # none for a constitution, and for human labels that stand for no principle
    constitution: tuple[Principle, ...] | None = None
    verdicts_per_pair: int | None = None  # of the constitution
    together: tuple[Principle, ...] | None = None  # all that one request asks about
    company: Company | None = None  # all that are asked about pair by pair


@dataclass(frozen=True)
class FeedbackNeeds:
    respond: Path


FeedbackJob = Job[FeedbackReads, FeedbackNeeds]


class Feedback(Stage[FeedbackReads, FeedbackNeeds]):
    name = "feedback"
    version = 2
    reads = FeedbackReads
    needs = FeedbackNeeds
    work = "morlaif.stages.work.feedback"
    counts = "verdict"


STAGE = Feedback()
