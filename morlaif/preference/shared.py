"""Kinds `heads`, `conditioned` and `salmon`: one adapter for all principles, trained on all their verdicts together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch

from morlaif.errors import UserError
from morlaif.models.layers import disable_dropout
from morlaif.preference.learners import SetsLearner, SharedLearner
from morlaif.preference.pairs import batched_over
from morlaif.preference.questions import check_questions, question_ids
from morlaif.preference.session import Base, Session
from morlaif.preference.sets import both_orders, draw_examples, set_scores, set_text
from morlaif.preference.settings import ConditionedPM, HeadsPM, SalmonPM
from morlaif.preference.trainer import Fitted, TrainingPairs


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
    _leave(session, settings, learner, base, fitted, taught, range(len(taught)), questions, names)


def train_sets(session: Session, settings: SalmonPM, taught: Sequence[int]) -> None:
    """One head for all; the model learns to read sets of principles, and is then asked about each by itself.

    The tasks that `leave_out` names are asked about without having been learnt from.
    """
    learnt = [k for k in taught if session.names[k] not in settings.leave_out]
    if not learnt:
        raise UserError(f"pm.leave_out: {', '.join(settings.leave_out)} leaves no principle to learn from")
    base = session.load_frozen()
    model, names = base.model, [session.names[k] for k in learnt]
    disable_dropout(model)
    check_questions(model)
    pairs, sets = _set_pairs(session, settings, learnt)
    learner = SetsLearner(model, settings.lora, session.generator("shared"), sets)
    fitted = session.fit_on(learner, taught, pairs)
    if fitted is None:
        return
    texts = [session.tasks[k].instruction(settings) for k in taught]
    learner.ask([session.names[k] for k in taught], [question_ids(session.tokenizer, text) for text in texts])
    _leave(session, settings, learner, base, fitted, taught, [0] * len(taught), texts, names)


def _set_pairs(
    session: Session, settings: SalmonPM, learnt: Sequence[int]
) -> tuple[TrainingPairs, list[list[list[int]]]]:
    """What is learnt, a column a pass, and the ids of the sets of principles that each pair has there."""
    data, passes = session.data, settings.sets.passes
    place = {pair.id: i for i, pair in enumerate(session.corpus.pairs)}
    scores = np.full((len(data), len(learnt)), np.nan)
    for column, k in enumerate(learnt):
        verdicts = session.tasks[k].verdicts
        scores[[place[verdict.pair_id] for verdict in verdicts], column] = set_scores(both_orders(verdicts))
    scores[session.labels[:, learnt].isnan().numpy()] = np.nan  # pairs that are equal once they are cut, dropped ties

    texts = [session.tasks[k].instruction(settings) for k in learnt]
    labels = torch.full((len(data), passes), torch.nan, dtype=torch.float64)
    nothing = question_ids(session.tokenizer, texts[0])  # where nothing is asked, and nothing learnt
    sets = [[nothing] * passes for _ in range(len(data))]
    for example in draw_examples(scores, settings.sets, Random(f"{session.seed}/sets")):
        named = [(texts[place], negated) for place, negated in example.principles]
        labels[example.pair, example.turn] = example.first
        sets[example.pair][example.turn] = question_ids(session.tokenizer, set_text(named, settings.negation))
    if labels.isnan().all():
        raise UserError(
            f"pm/{session.names[learnt[0]]}: no pair has a preference under any set of principles: in none does the "
            "judge prefer the same response in both orders"
        )
    kept = set(session.chosen_by)
    free = [i for i in range(len(data)) if i not in kept]
    usable = (~labels[free].isnan()).any(1)
    over = [free[i] for i in batched_over(usable, len(free))]
    return TrainingPairs(session.texts, labels, over, session.chosen_by), sets


def _leave(
    session: Session,
    settings: HeadsPM | ConditionedPM,
    learner: SharedLearner,
    base: Base,
    fitted: Fitted,
    taught: Sequence[int],
    columns: Sequence[int],
    questions: Sequence[str] | None,
    together: list[str],
) -> None:
    """The view that each task has of what was fitted. columns: of the fit, for its loss."""
    held = session.held_scores(learner)
    for i, k in enumerate(taught):
        report = session.report(k, fitted, columns[i], held[:, :, i], base.origin, together)
        written = session.write_adapter(k, learner.adapter(i), settings.lora, base.model)
        if isinstance(settings, ConditionedPM) and questions is not None:
            report = replace(report, question=questions[i], instruction=settings.instruction)
        session.leave(k, replace(report, adapter=written))
