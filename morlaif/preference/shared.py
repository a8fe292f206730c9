"""Kinds `heads` and `conditioned`: one adapter for all principles, trained on all their verdicts together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from morlaif.models.layers import disable_dropout
from morlaif.preference.learners import SharedLearner
from morlaif.preference.pairs import batched_over
from morlaif.preference.questions import check_questions, question_ids
from morlaif.preference.session import Base, Session
from morlaif.preference.settings import ConditionedPM, HeadsPM


def train_heads(session: Session, settings: HeadsPM, taught: Sequence[int]) -> None:
    """A head for each principle."""
    if taught:
        _train(session, settings, taught, session.load_frozen())


def train_conditioned(session: Session, settings: ConditionedPM, taught: Sequence[int]) -> None:
    """One head for all; behind the dialogue the model reads what it is to judge by."""
    if taught:
        base = session.load_frozen()
        _train(session, settings, taught, base, [session.tasks[k].instruction(settings) for k in taught])


def _train(
    session: Session,
    settings: HeadsPM | ConditionedPM,
    taught: Sequence[int],
    base: Base,
    questions: Sequence[str] | None = None,
) -> None:
    model, names = base.model, [session.names[k] for k in taught]
    disable_dropout(model)
    ids = None
    if questions is not None:
        check_questions(model)
        ids = [question_ids(session.tokenizer, text) for text in questions]
    learner = SharedLearner(names, model, settings.lora, settings.pooling, session.generator("shared"), ids)
    over = batched_over((~session.learnt_labels[:, taught].isnan()).any(1), len(session.data))
    fitted = session.fit(learner, taught, over)
    if fitted is None:
        return
    held = session.held_scores(learner)
    for i, k in enumerate(taught):
        report = session.report(k, fitted, i, held[:, :, i], base.origin, names)
        written = session.write_adapter(k, learner.adapter(i), settings.lora, model)
        question = None if questions is None else questions[i]
        session.leave(k, replace(report, adapter=written, question=question))
