"""Training preference models on verdicts, one or many at once.

The loop (`PMTrainer`) is our own: TRL's RewardTrainer takes hard labels alone, trains one model at a time, pads by
batch order and costs seconds of set-up for each of a dozen small models. A test holds our loss against its.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.preference.kind import OnStep
from morlaif.preference.kinds import kind_of
from morlaif.preference.report import PMReport
from morlaif.preference.settings import PMSettings
from morlaif.preference.tasks import Corpus, Task


def train_pm(
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    held_pairs: Sequence[Pair],
    held_verdicts: Sequence[Verdict],
    base: str | Path,
    settings: PMSettings,
    *,
    principle: str,
    out: Path,
    seed: int,
    revision: str | None = None,
    own_base: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    keep: Path | None = None,
) -> PMReport:
    """Train one preference model on `pairs`, test it on `held_pairs`, and leave it in `out`. `keep`: as below."""
    corpus = Corpus(pairs, held_pairs, base, revision, own_base, torch.device(device), dtype)
    ends = train_pms(
        [Task(principle, verdicts, held_verdicts, out)], corpus, settings, seed=seed,
        on_step=lambda step, steps, losses: on_step(step, steps, losses.get(principle, float("nan"))), keep=keep,
    )  # fmt: skip
    result = ends[principle]
    if isinstance(result, UserError):
        raise result
    return result


def train_pms(
    tasks: Sequence[Task],
    corpus: Corpus,
    settings: PMSettings,
    *,
    seed: int,
    on_step: OnStep = lambda step, steps, losses: None,
    keep: Path | None = None,
) -> dict[str, PMReport | UserError]:
    """Train the preference models of `tasks`, test them, and leave each in its folder.

    The same seed, data and device give the same weights; for kinds whose weights are each principle's own, whatever
    the company. With a dtype below float32 the frozen base is kept in it, and trained weights stay in float32 under
    autocast. A principle that cannot be trained has its error in the result; the others are there all the same.

    keep: a folder for checkpoints, every `checkpoint_every` steps. The same call goes on from the last one, at the step
    after it, and comes to the same weights; steps made before are not reported again. None: nothing is kept.
    """
    return kind_of(settings).train(tasks, corpus, seed=seed, on_step=on_step, keep=keep)
