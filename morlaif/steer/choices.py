"""Weights from a person's choices among answers: a conditional logit of the objectives' values.

Of answers i with values xᵢ (K,) one is liked with probability exp(β·xᵢ) / Σⱼ exp(β·xⱼ) (Bradley and Terry 1952 for two,
McFadden 1974 for more). β is the log-odds that a unit of each objective is worth; its shares are the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from morlaif.data.records import Message
from morlaif.errors import UserError, suggest
from morlaif.files import read_json_lines
from morlaif.statistics import Array, Interval, Resampling, percentiles, resample_counts
from morlaif.steer.conditioning import Shares

_ENOUGH = 1e-10  # change of β that is none
_STEPS = 100


@dataclass(frozen=True)
class Choice:
    """Of two or more answers to a prompt, the one that a person likes."""

    messages: list[Message]
    texts: tuple[str, ...]
    values: tuple[tuple[float, ...], ...] | None  # (answers, K); None: the file has none
    liked: int


@dataclass(frozen=True)
class Chosen:
    """What choices say of the weights."""

    worth: tuple[float, ...]  # β (K,): log-odds of a unit of each objective
    shares: Shares  # of what is above zero
    intervals: tuple[Interval, ...]  # of each share, over choices
    drawn: list[Shares]  # of each resample that has anything above zero


def weights_of(values: Sequence[Array], liked: Sequence[int], prior: float, **how: Unpack[Resampling]) -> Chosen:
    """Weights by which answers were liked, with a bootstrap over choices.

    Args:
        values: of each choice (answers, K).
        prior: deviation of the normal prior of each β around zero, without which choices that never go against one
            would make it infinite.

    Raises:
        UserError: the choices are for none of the objectives.
    """
    padded, there = _padded(values)
    worth = fitted(padded, there, np.asarray(liked), prior)
    shares = _shares(worth)
    if shares is None:
        raise UserError("steer.choices: they go against every objective, so no weights from 0 on are theirs")
    counts = resample_counts(len(padded), seed=how["seed"], resamples=how["resamples"])
    made = [_shares(fitted(padded, there, np.asarray(liked), prior, own, start=worth)) for own in counts]
    drawn = [one for one in made if one is not None]
    table = np.array(drawn).reshape(-1, len(shares))
    intervals = [percentiles(shares[k], table[:, k], len(padded), how["confidence"]) for k in range(len(shares))]
    return Chosen(tuple(worth.tolist()), shares, tuple(intervals), drawn)


def fitted(
    values: Array, there: Array, liked: Array, prior: float, counts: Array | None = None, *, start: Array | None = None
) -> Array:
    """(K,) β of most probability, by Newton's method.

    Args:
        values: (C, M, K), with whatever where `there` (C, M) is false.
        liked: (C,) which answer of each choice.
        counts: (C,) how often each choice counts; None: once.
        start: (K,) where the search begins; None: at zero.
    """
    own = np.ones(len(values)) if counts is None else counts
    x = np.where(there[..., None], values, 0.0)
    picked = x[np.arange(len(x)), liked]
    ridge = prior**-2
    beta = np.zeros(x.shape[-1]) if start is None else start

    def height(at: Array) -> float:
        logits = np.where(there, x @ at, -np.inf)
        top = logits.max(axis=1)
        whole = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return float(own @ (picked @ at - whole) - ridge * at @ at / 2)

    value = height(beta)
    for _ in range(_STEPS):
        logits = np.where(there, x @ beta, -np.inf)
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        mean = np.einsum("cm,cmk->ck", chance, x)
        slope = own @ (picked - mean) - ridge * beta
        each, flat = (x * (own[:, None] * chance)[..., None]).reshape(-1, len(beta)), x.reshape(-1, len(beta))
        curve = each.T @ flat - (own[:, None] * mean).T @ mean + ridge * np.eye(len(beta))
        step = np.linalg.solve(curve, slope)
        while (tried := height(beta + step)) < value - 1e-12:
            step /= 2
        beta, value = beta + step, tried
        if np.abs(step).max() < _ENOUGH * (1 + np.abs(beta).max()):
            break
    found: Array = beta
    return found


def _padded(values: Sequence[Array]) -> tuple[Array, Array]:
    most = max(len(own) for own in values)
    padded = np.zeros((len(values), most, values[0].shape[1]))
    there = np.zeros((len(values), most), dtype=bool)
    for row, own in enumerate(values):
        padded[row, : len(own)], there[row, : len(own)] = own, True
    return padded, there


def _shares(worth: Array) -> Shares | None:
    above = np.maximum(worth, 0.0)
    return tuple((above / above.sum()).tolist()) if above.sum() > 0 else None


# --- the file -------------------------------------------------------------------------------------------------------


def read_choices(path: Path, names: Sequence[str]) -> list[Choice]:
    """Choices of a file of JSON lines, as the page of sliders saves them: `messages` (or `prompt`), `answers`, each
    with its `text` and, where they are known, its `scores` by name, and `liked`, the place of one from 0.

    Raises:
        UserError: a row is not so, or there is none; it names the line.
    """
    found = list[Choice]()
    for line, row in read_json_lines(path, "choices, an object a line"):
        where = f"steer.choices: {path}:{line}"
        messages, answers, liked = row.get("messages"), row.get("answers"), row.get("liked")
        if isinstance(row.get("prompt"), str):
            messages = [{"role": "user", "content": row["prompt"]}]
        if not _dialogue(messages):
            raise UserError(f"{where}: has neither `prompt`, a text, nor `messages`, a list of turns")
        if not isinstance(answers, list) or len(answers) < 2 or not all(
            isinstance(one, dict) and isinstance(one.get("text"), str) for one in answers
        ):  # fmt: skip
            raise UserError(f"{where}: `answers` should be two or more, each an object with its `text`")
        if isinstance(liked, bool) or not isinstance(liked, int) or not 0 <= liked < len(answers):
            raise UserError(f"{where}: `liked` should be the place of one of {len(answers)} answers, from 0")
        values = [_values(one.get("scores"), names, where) for one in answers]
        known = tuple(own for own in values if own is not None)
        texts = tuple(one["text"] for one in answers)
        found.append(Choice(messages, texts, known if len(known) == len(values) else None, liked))
    if not found:
        raise UserError(f"steer.choices: {path} holds no choice")
    return found


def _dialogue(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )  # fmt: skip


def _values(scores: Any, names: Sequence[str], where: str) -> tuple[float, ...] | None:
    if scores is None:
        return None
    if not isinstance(scores, Mapping):
        raise UserError(f"{where}: `scores` should be numbers by name: {', '.join(names)}")
    for name in scores:
        if name not in names:
            raise UserError(f"{where}: a score of '{name}'; the policy has {', '.join(names)}.{suggest(name, names)}")
    found = []
    for name in names:
        value = scores.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{where}: the score of {name} is {json.dumps(value)}; expected a number")
        found.append(float(value))
    return tuple(found)
