"""What the reward must be before anything learns from it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from morlaif.errors import UserError
from morlaif.rl.settings import ShapingSettings

log = logging.getLogger(__name__)


def check_scores(
    scores: Tensor, names: Sequence[str], texts: Sequence[str], step: int, *, allow_constant: bool
) -> None:
    """(B, K) scores are finite and, for each principle, not all the same.

    Raises:
        UserError: naming the principle, the step, and the response at fault.
    """
    if scores.shape != (len(texts), len(names)):
        raise UserError(
            f"the reward gave scores of shape {tuple(scores.shape)} for {len(texts)} responses and the principles "
            f"{', '.join(names)}; it must be ({len(texts)}, {len(names)})"
        )
    bad = (~scores.isfinite()).nonzero().tolist()
    if bad:
        row, column = bad[0]
        raise UserError(
            f"step {step}: the score of '{names[column]}' is {scores[row, column].item()} for response {row} "
            f"({_short(texts[row])}); {len(bad)} of {scores.numel()} scores are not finite: look at what scores it"
        )
    if allow_constant or len(set(texts)) < 2:
        return
    for column, name in enumerate(names):
        first = scores[0, column]
        if torch.equal(scores[:, column], first.expand(len(scores))):
            raise UserError(
                f"step {step}: the score of '{name}' is {first.item():g} for all {len(texts)} responses, so nothing "
                "can be learnt from it: look at what scores it, or set ppo.shaping.constant_score=allow"
            )


def check_rewards(rewards: Tensor, texts: Sequence[str], step: int) -> None:
    """The scalarizer may overflow where the scores did not."""
    if not rewards.isfinite().all():
        row = int((~rewards.isfinite()).nonzero()[0])
        raise UserError(
            f"step {step}: the scalarized reward is {rewards[row].item()} for response {row} ({_short(texts[row])}), "
            "though each principle's score is finite: look at the scalarizer"
        )


def check_shaped(shaped: Tensor, ended: Tensor, texts: Sequence[str], step: int, settings: ShapingSettings) -> None:
    """What is learnt from may be constant where the scores were not: each of them replaced, or clipped.

    A warning, since a policy may pass through such a step; at the first step, which shows what was set wrongly, an
    error unless `constant_score` allows it.

    Raises:
        UserError: saying what levelled them.
    """
    if len(set(texts)) < 2 or not torch.equal(shaped, shaped[:1].expand(len(shaped))):
        return
    value, shown = f"{shaped[0].item():g}", f"all {len(texts)} responses"
    if settings.missing_eos == "replace" and not ended.any():
        why = "none of them ended by itself, so ppo.shaping.missing_eos=replace has replaced each score"
        what = "raise ppo.max_new_tokens, name what ends a response in ppo.stop, or use ppo.shaping.missing_eos=none"
    elif settings.clip is not None and abs(abs(shaped[0].item()) - settings.clip) < 1e-6:
        why, what = "each score is clipped", "raise ppo.shaping.clip, or look at what scores them"
    else:
        why, what = "the scalarizer or the shaping has levelled them", "look at scalarizer and ppo.shaping"
    message = f"step {step}: the shaped reward is {value} for {shown}, so nothing can be learnt from it: {why}; {what}"
    if step or settings.constant_score == "allow":
        log.warning(message)
        return
    raise UserError(f"{message}, or set ppo.shaping.constant_score=allow")


def check_row(row: Mapping[str, float], step: int) -> None:
    """The updates may diverge where the rewards did not."""
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"step {step}: {bad[0]} is {row[bad[0]]} after the updates: the run has diverged; lower "
            "ppo.optimizer.learning_rate or clip harder (ppo.optimizer.max_grad_norm, ppo.shaping.clip)"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
