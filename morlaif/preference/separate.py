"""Kinds `lora`, `trunk` and `ensemble`: adapters of each principle's own on one frozen base, as many at once as the
memory allows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from morlaif import ranks
from morlaif.models.adapters import Adapter
from morlaif.models.layers import disable_dropout, top_layers
from morlaif.preference.learners import StackedLearner
from morlaif.preference.lora import forward_tokens
from morlaif.preference.members import MembersLearner, bootstrap_counts
from morlaif.preference.report import MODEL
from morlaif.preference.scorers import aggregate
from morlaif.preference.scoring import JOINT_TOKENS
from morlaif.preference.session import Base, Session
from morlaif.preference.settings import AdapterEach, EnsemblePM, TopLayers
from morlaif.preference.split import SplitTrunk
from morlaif.preference.trainer import Fitted


@dataclass(frozen=True)
class Learnt:
    """What was learnt of one principle from one seed."""

    adapter: Adapter
    fitted: Fitted
    column: int
    held: NDArray[np.float64]  # (N, 2) scores of the held-out responses
    mean: float  # of its training scores; of a single member, 0


def train_adapters(
    session: Session, settings: AdapterEach, taught: Sequence[int], top: TopLayers | None = None
) -> None:
    """An adapter for each principle. top: adapt the top layers alone."""
    base = session.load_frozen()
    for k, (one,) in _learn(session, settings, base, taught, top):
        report = session.report(k, one.fitted, one.column, one.held, base.origin)
        written = session.write_adapter(k, one.adapter, settings.lora, base.model)
        session.leave(k, replace(report, adapter=written))


def train_ensembles(session: Session, settings: EnsemblePM, taught: Sequence[int]) -> None:
    """Several adapters for each principle, each centred on the mean of its training scores."""
    base = session.load_frozen()
    top = settings if settings.member == "trunk" else None
    learn = _learn_members if settings.in_one_pass else _learn
    for k, members in learn(session, settings, base, taught, top, settings.members):
        described: list[dict[str, Any]] = []
        for index, one in enumerate(members):
            folder = MODEL if index == 0 else f"{MODEL}/members/{index}"
            accuracy = session.report(k, one.fitted, one.column, one.held, base.origin).accuracy
            written = session.write_adapter(k, one.adapter, settings.lora, base.model, folder)
            described.append({"folder": folder, "adapter": written, "offset": one.mean, "accuracy": accuracy})
        centred = np.stack([one.held - one.mean for one in members], axis=-1)  # (N, 2, members)
        whole = aggregate(torch.from_numpy(centred), settings.aggregate, settings.penalty).numpy()
        report = session.report(k, members[0].fitted, members[0].column, whole, base.origin)
        report = replace(
            report,
            train_loss=float(np.mean([one.fitted.train_loss(one.column) for one in members])),
            members=described,
            aggregate={"rule": settings.aggregate, "penalty": settings.penalty},
            adapter=described[0]["adapter"],
        )
        session.leave(k, report)


def _learn(
    session: Session,
    settings: AdapterEach,
    base: Base,
    taught: Sequence[int],
    top: TopLayers | None,
    members: int = 1,
) -> Iterator[tuple[int, list[Learnt]]]:
    """Each task that could be learnt, with its members."""
    model, split = base.model, _split(session, base, top)
    over = {k: session.batched_over(k) for k in taught}
    alike = {k: (pairs, session.resumes_from(k, members)) for k, pairs in over.items()}
    for together in _groups(alike, _at_once(session, settings)):
        learnt: dict[int, list[Learnt]] = {k: [] for k in together}
        names = [session.names[k] for k in together]
        for member in range(members):
            generators = [session.generator(name, member) for name in names]
            learner = StackedLearner(names, model, settings.lora, settings.pooling, generators, split)
            weights = _bootstrapped(session, settings, together, [member])
            fitted = session.fit(learner, together, over[together[0]], member, members, weights)
            if fitted is not None:
                held = session.held_scores(learner)
                means = session.mean_scores(learner, together) if members > 1 else [0.0] * len(together)
                for i, k in enumerate(together):
                    if i not in fitted.failed:
                        learnt[k].append(Learnt(learner.adapter(i), fitted, i, held[:, :, i], means[i]))
            learner.stack.remove()
        for k, made in learnt.items():
            if session.names[k] not in session.ends:
                yield k, made


def _learn_members(
    session: Session, settings: EnsemblePM, base: Base, taught: Sequence[int], top: TopLayers | None, members: int
) -> Iterator[tuple[int, list[Learnt]]]:
    """The same for members that learn in one pass."""
    model, split, every = base.model, _split(session, base, top), range(members)
    alone = settings.member == "heads"
    over = {k: session.batched_over(k) for k in taught}
    alike = {k: (pairs, session.resumes_from(k, 1)) for k, pairs in over.items()}
    for together in _groups(alike, _at_once(session, settings, 1 if alone else members)):
        names = [session.names[k] for k in together]
        learner = MembersLearner(
            names, members, model, settings.lora, settings.pooling,
            [session.generator(name, member) for name in names for member in every], split,
            one_adapter=alone, diversity=settings.diversity, shared_steps=settings.shared_steps,
        )  # fmt: skip
        weights = _bootstrapped(session, settings, together, every)
        fitted = session.fit(learner, together, over[together[0]], weights=weights)
        if fitted is not None:
            held, means = session.held_scores(learner), session.mean_scores(learner, together)
            for i, k in enumerate(together):
                if session.names[k] not in session.ends:
                    columns = [i * members + member for member in every]
                    yield k, [Learnt(learner.adapter(j), fitted, j, held[:, :, j], means[j]) for j in columns]
        learner.stack.remove()


def _split(session: Session, base: Base, top: TopLayers | None) -> SplitTrunk | None:
    """The base in two parts where the top layers alone are adapted. A frozen base is the same for all: what drops out,
    drops in front of the adapters."""
    disable_dropout(base.model)
    if top is None:
        return None
    split = SplitTrunk(base.model, top_layers(base.model, top.top).start)
    _keep_lower(session, split, base, top.cache_gb)
    return split


def _bootstrapped(
    session: Session, settings: AdapterEach, together: Sequence[int], members: Sequence[int]
) -> Tensor | None:
    """(N, tasks · members): how often each member's resample has each pair; None where all learn from all."""
    if not (isinstance(settings, EnsemblePM) and settings.bootstrap):
        return None
    columns = [
        bootstrap_counts(
            len(session.data), session.learnt[k], session.generator(f"{session.names[k]}/resample", member)
        )
        for k in together
        for member in members
    ]
    return torch.stack(columns, dim=1)


def _groups(alike: Mapping[int, Hashable], at_once: int) -> Iterator[list[int]]:
    """Tasks of which the same is known (batches of the same pairs, say), `at_once` at most."""
    groups: dict[Hashable, list[int]] = {}
    for k, known in alike.items():
        groups.setdefault(known, []).append(k)
    for members in groups.values():
        for start in range(0, len(members), at_once):
            yield members[start : start + at_once]


def _at_once(session: Session, settings: AdapterEach, adapters: int = 1) -> int:
    """How many principles go through one training forward, each with so many adapters."""
    share = -(-settings.batch_size // ranks.count())
    micro = min(settings.micro_batch_size or share, share)
    most = (settings.joint_tokens or JOINT_TOKENS) // (2 * micro * max(session.texts.lengths) * adapters)
    return max(1, min(settings.joint, most))


def _keep_lower(session: Session, split: SplitTrunk, base: Base, cache_gb: float) -> None:
    """Run the frozen layers once and for all where their states are read again and fit the memory given to them."""
    wide = base.model.config.get_text_config().hidden_size * torch.finfo(session.corpus.dtype).bits // 8
    tokens = forward_tokens(base.model)
    if sum(session.texts.lengths + session.held_texts.lengths) * wide <= cache_gb * 1e9:
        session.texts.keep_lower(split, tokens)
        session.held_texts.keep_lower(split, tokens)
