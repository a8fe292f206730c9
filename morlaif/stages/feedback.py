"""Stage `feedback`: a verdict for each pair under one principle, or under a constitution of several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from morlaif.devices import processor_lacks_bfloat16
from morlaif.feedback.estimate import ASSUMED_TOKENS
from morlaif.feedback.settings import Company, FeedbackSettings, HfSettings, Principle
from morlaif.memory.advice import halves
from morlaif.memory.dimensions import Dimensions, of_path
from morlaif.memory.effort import Amounts, Effort, loaded
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import FORWARD, Judging, Machine
from morlaif.models.settings import SampleResponses
from morlaif.stages.places import Places
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage, Unit


@dataclass(frozen=True, kw_only=True)
class FeedbackReads(Reads):
    feedback: FeedbackSettings
    principle: Principle | None = None  # none for a constitution, and for human labels of no principle
    constitution: tuple[Principle, ...] | None = None
    verdicts_per_pair: int | None = None  # of the constitution
    together: tuple[Principle, ...] | None = None  # all that one request asks about
    company: Company | None = None  # all that are asked about pair by pair
    people: bool = False  # whether the labels of people count beside the judge's
    places: Places | None = None  # where the run's own model is the judge


@dataclass(frozen=True)
class FeedbackNeeds:
    respond: Path
    sft: Path | None  # where that is the judge


FeedbackJob = Job[FeedbackReads, FeedbackNeeds]


class Feedback(Stage[FeedbackReads, FeedbackNeeds]):
    name = "feedback"
    version = 2
    reads = FeedbackReads
    needs = FeedbackNeeds
    work = "morlaif.stages.work.feedback"
    counts = "verdict"

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        respond = unit.of("respond")[0].reads.respond
        new = respond.max_new_tokens if isinstance(respond, SampleResponses) else ASSUMED_TOKENS[1]
        judge = judging(unit.reads.feedback, _side_by_side(unit.reads), new, own=machine.policy)
        return None if judge is None else judged_here(self.name, judge, machine)

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> list[Effort] | None:
        settings = unit.reads.feedback
        if not isinstance(settings, HfSettings):
            return []  # a server takes its own time, which the table of costs has
        judge = judging(settings, _side_by_side(unit.reads), data.sampled, data.prompt, machine.policy)
        if judge is None or data.examples is None:
            return None
        verdicts = data.examples * (unit.reads.verdicts_per_pair or 1)
        return [loaded("judge", judge.dims), judge_effort(judge, verdicts)]

    def smaller(self, reads: FeedbackReads) -> Iterator[str]:
        if isinstance(reads.feedback, HfSettings):
            yield from halves("feedback.batch_size", reads.feedback.batch_size)

    def simpler(self, reads: FeedbackReads) -> Iterator[str]:
        if (
            isinstance(reads.feedback, HfSettings)
            and reads.feedback.dtype == "float32"
            and not processor_lacks_bfloat16()
        ):
            yield "feedback.dtype=bfloat16"  # other numbers, to rounding: other verdicts


def _side_by_side(reads: FeedbackReads) -> int:
    """Principles under which a pair is judged one right after another."""
    return len(reads.company.principles) if reads.company else reads.verdicts_per_pair or 1


INSTRUCTION, ENDING = 60, 90  # tokens of the instruction before the dialogue, and of a principle behind it


def judging(
    settings: object, principles: int, new: int, prompt: int = ASSUMED_TOKENS[0], own: Dimensions | None = None
) -> Judging | None:
    """The language model that judges here, if one does and its shape is known.

    Args:
        new: tokens of a response at most.
        own: of the run's own model, for a judge that is it.
    """
    if not isinstance(settings, HfSettings):
        return None
    dims = own if settings.path is None else of_path(settings.path, settings.revision)
    if dims is None:
        return None
    element = 4 if settings.dtype == "float32" else 2
    together = principles if settings.order == "pair" else 1
    return Judging(dims, element, settings.batch_size, together, INSTRUCTION + prompt + 2 * new, ENDING)


def judge_effort(judge: Judging, verdicts: int) -> Effort:
    """Two questions a verdict; what they share is read once for all of them."""
    length = math.ceil(judge.prompt / judge.questions) + judge.ending
    rows = max(1, min(8, judge.rows))
    return Effort("read", "judge", judge.dims, rows, length, 2 * verdicts / rows, logits=rows)


def judged_here(stage: str, judge: Judging, machine: Machine) -> StageMemory:
    """A judge alone in a process; a step is a batch of questions."""
    always, turn = machine.judging(judge)
    read = judge.rows * (judge.prompt / judge.questions + judge.ending)
    seconds = machine.compute(judge.dims, read, FORWARD, logits=judge.rows * judge.ending)
    return StageMemory(
        stage, 1, tuple(always), (("judging", tuple(turn)),), None, seconds, f"of {judge.rows} questions"
    )


STAGE = Feedback()
