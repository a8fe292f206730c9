"""Kind `full`: a whole model for each principle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from morlaif import ranks, sharded
from morlaif.models.open import quiet
from morlaif.preference.learners import FullLearner
from morlaif.preference.report import MODEL
from morlaif.preference.session import Session
from morlaif.preference.settings import FullPM


def train_whole(session: Session, settings: FullPM, taught: Sequence[int]) -> None:
    """One model after another."""
    for k in taught:
        name = session.names[k]
        base = session.load_learning()
        learner = FullLearner(name, base.model, settings.pooling, session.generator(name))
        fitted = session.fit(learner, [k], session.batched_over(k))
        if fitted is None:
            continue
        report = session.report(k, fitted, 0, session.held_scores(learner)[:, :, 0], base.origin)
        _write(session, k, learner)
        session.leave(k, report)


def _write(session: Session, k: int, learner: FullLearner) -> None:
    learner.finish()
    model: PreTrainedModel = learner.model
    state = None if ranks.count() == 1 else sharded.state_dict(model, torch.float32)

    def write() -> None:
        with quiet():
            model.config.dtype = torch.float32  # in which the weights are written, whatever computed with them
            model.save_pretrained(session.tasks[k].out / MODEL, state_dict=state)

    ranks.on_first(write)
