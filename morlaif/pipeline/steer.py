"""`morlaif steer`: what a policy of a finished run answers at given weights: one that takes them, or a soup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from morlaif.config import Config
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.files import read_json_lines
from morlaif.pipeline.record import write_whole
from morlaif.pipeline.steerable import Measured, Steerable, front_of, measured, steerable
from morlaif.statistics import Array, Interval, Resampling
from morlaif.steer import conditioning, simplex
from morlaif.steer.choices import Choice, Chosen, read_choices, weights_of
from morlaif.steer.conditioning import Shares, shares_of
from morlaif.steer.page import Cell, GridPage
from morlaif.steer.search import Served, serve
from morlaif.steer.settings import AnswerSettings
from morlaif.texts import say

MOST_POINTS = 500  # of a page's grid
ROLES = ("system", "user", "assistant")
HOW = Resampling(seed=0, resamples=1000, confidence=0.95)


def answer(config: Config, console: Console) -> None:
    """Do what the group `steer` asks: say weights, answer prompts at them, leave the policy at them, or make a page.

    Raises:
        UserError: the run has no policy that takes weights, the weights are none of its, or a file is not as it
            should be.
    """
    asked = config.steer
    policy, others = steerable(asked, config)
    weights = shares_of(_given(policy, asked), policy.names, "steer.weights")
    choices = read_choices(Path(asked.choices).expanduser(), policy.names) if asked.choices is not None else []
    front = _measured(policy, config) if asked.search else None
    prompts = [_said(asked.prompt)] if asked.prompt is not None else []
    if asked.prompts is not None:
        prompts = list(_read(Path(asked.prompts).expanduser()))
    kept = None if asked.policy is None else Path(asked.policy).expanduser()
    if kept is not None and kept.exists():
        raise UserError(f"steer.policy: {kept} is there already; name a folder that is not")
    if asked.page is not None:
        _page(policy, others, asked, prompts, config, console)
        return
    if config.dry_run:
        say(console, f"{policy.arm} at {_told(policy, weights)}{others}" if not choices else f"{policy.arm}{others}")
        return

    # 1. the weights, and the shares at which the policy is asked
    drawn = None
    if choices:
        chosen = _chosen(policy, choices, asked, config)
        weights, drawn = chosen.shares, chosen.drawn
        say(console, f"{len(choices)} choices weigh {_shown(policy, chosen.shares, chosen.intervals)}")
        if against := [name for name, own in zip(policy.names, chosen.worth, strict=True) if own < 0]:
            say(console, f"they go against {', '.join(against)}, which has no weight then")
    shares = weights
    if front is not None:
        served = serve(_Worth(policy.names, front, config), front.points, weights, drawn, **HOW)
        shares = served.shares
        _say_served(policy, weights, served, config, console)

    # 2. what it is asked for there
    say(console, f"{policy.arm} at {_told(policy, shares)}{others}")
    named = dict(zip(policy.names, shares, strict=True))
    if kept is not None:
        policy.keep(named, kept, config.hardware)
        say(console, f"written: {kept}")
    if not prompts:
        return
    (texts,) = policy.answers(prompts, [named], asked.seed, config.hardware)
    if asked.out is None:
        for text in texts:
            say(console, text, lines=True)
        return
    rows = [{"messages": p, "weights": named, "response": text} for p, text in zip(prompts, texts, strict=True)]
    out = Path(asked.out).expanduser()
    write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    say(console, f"written: {out}, {len(rows)} answers")


# --- weights --------------------------------------------------------------------------------------------------------


def _given(policy: Steerable, asked: AnswerSettings) -> dict[str, float]:
    return asked.weights if asked.weights is not None else dict(zip(policy.names, policy.own, strict=True))


def _told(policy: Steerable, shares: Shares) -> str:
    return ", ".join(f"{name} {share:.3g}" for name, share in zip(policy.names, shares, strict=True))


def _shown(policy: Steerable, shares: Shares, intervals: tuple[Interval, ...]) -> str:
    parts = zip(policy.names, shares, intervals, strict=True)
    return ", ".join(f"{name} {share:.2f} [{one.low:.2f}, {one.high:.2f}]" for name, share, one in parts)


def _chosen(policy: Steerable, choices: list[Choice], asked: AnswerSettings, config: Config) -> Chosen:
    """Weights by the choices, whose answers are scored here where their file has no scores."""
    bare = [choice for choice in choices if choice.values is None]
    score = policy.scorer(config.hardware) if bare else None
    if bare and score is None:
        raise UserError(
            f"steer.choices: {len(bare)} have no `scores`, and {policy.run.folder.name} has no preference models of "
            f"{', '.join(policy.names)} in a store that can be reached to give them"
        )
    values = list[Array]()
    for choice in choices:
        known = choice.values
        if known is None and score is not None:
            known = tuple(score([choice.messages] * len(choice.texts), choice.texts))
        values.append(np.array(known))
    return weights_of(values, [choice.liked for choice in choices], asked.prior, **HOW)


def _measured(policy: Steerable, config: Config) -> Measured:
    """What the run's front has measured of the policy, and that the scalarizer can be asked of it."""
    from morlaif.scalarize.registry import resolve

    scalarizer = resolve(config.scalarizer)
    if scalarizer.stateful or scalarizer.reads_sft_scores:
        raise UserError(
            f"scalarizer={scalarizer.name}: follows what training sees, so it says nothing of answers by themselves; "
            "search by another, such as scalarizer=linear"
        )
    front = front_of(policy.run)
    if front is None:
        raise UserError(f"steer.search: {policy.run.folder.name} had no front, so nothing is measured; front=lora")
    found = measured(policy, front)
    if len(found.values[0]) < 2:
        raise UserError("steer.search: the front has fewer than two prompts; front.prompts=40 or more tell something")
    return found


class _Worth:
    """What each answer of a front is worth, by weights and the scalarizer."""

    def __init__(self, names: tuple[str, ...], front: Measured, config: Config) -> None:
        import torch

        from morlaif.scalarize.registry import resolve

        self.names, self.scalarizer = names, resolve(config.scalarizer)
        self.values = torch.tensor(front.values)  # (P, N, K)

    def __call__(self, weights: Shares) -> Array:
        import torch

        from morlaif.scalarize.objective import Objective

        zero, one = torch.zeros(len(self.names)), torch.ones(len(self.names))
        objective = Objective(self.names, zero, one, one, torch.tensor(weights), self.scalarizer, normalizer="none")
        found: Array = objective(self.values.flatten(0, 1)).reshape(self.values.shape[:2]).double().numpy()
        return found


def _say_served(policy: Steerable, weights: Shares, served: Served, config: Config, console: Console) -> None:
    gain, found = served.gain, _shown(policy, served.shares, served.intervals)
    point = simplex.name_of(served.measured, policy.names)
    say(console, f"worth most by {config.scalarizer.name} at weights {_told(policy, weights)}: {found}")
    say(
        console,
        f"of the measured points {point}; worth {served.worth:.3f} there or near, {served.plain:.3f} at the weights; "
        f"on prompts that did not choose it {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], {gain.n} prompts",
    )
    if gain.low <= 0:
        say(console, "so the front does not tell that the search pays")


# --- the page -------------------------------------------------------------------------------------------------------


def _page(
    policy: Steerable,
    others: str,
    asked: AnswerSettings,
    prompts: list[list[Message]],
    config: Config,
    console: Console,
) -> None:
    """Answer at every point of the grid, score that by the run's preference models, and write the page."""
    names, out = policy.names, Path(asked.page or "").expanduser()
    points = simplex.grid(len(names), asked.steps)
    if len(points) > MOST_POINTS:
        raise UserError(
            f"steer.steps: {asked.steps} steps of {len(names)} weights are {len(points):,} points, and a page holds "
            f"{MOST_POINTS:,}; take fewer steps"
        )
    say(console, f"{policy.arm} at {len(points)} points of {', '.join(names)}, {len(prompts)} prompts each{others}")
    if config.dry_run:
        return
    score, cells = policy.scorer(config.hardware), dict[simplex.Point, list[Cell]]()
    if score is None:
        say(console, "not scored: the run has no preference model of each of them in a store that can be reached")
    each = [dict(zip(names, point, strict=True)) for point in points]
    answered = policy.answers(prompts, each, asked.seed, config.hardware)
    for done, (point, texts) in enumerate(zip(points, answered, strict=True), 1):
        scores = [None] * len(texts) if score is None else score(prompts, texts)
        cells[point] = [Cell(text, row) for text, row in zip(texts, scores, strict=True)]
        if done % 10 == 0:
            say(console, f"{done} of {len(points)}")
    start = conditioning.rounded(policy.own, asked.steps)
    title = f"{policy.run.folder.name}: {policy.arm}, at weights of yours"
    write_whole(out, GridPage(title, names, asked.steps, start, prompts, cells).render())
    say(console, f"written: {out}")


# --- prompts ---------------------------------------------------------------------------------------------------------


def _said(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _read(path: Path) -> Iterator[list[Message]]:
    empty = True
    for line, row in read_json_lines(path, "prompts, an object a line"):
        where, empty = f"steer.prompts: {path}:{line}", False
        if isinstance(row.get("prompt"), str) and row["prompt"].strip():
            yield _said(row["prompt"])
        elif "messages" in row:
            yield _dialogue(row["messages"], where)
        else:
            raise UserError(f"{where}: has neither `prompt`, a text, nor `messages`, a list of turns")
    if empty:
        raise UserError(f"steer.prompts: {path} holds no prompt")


def _dialogue(turns: Any, where: str) -> list[Message]:
    whole = isinstance(turns, list) and bool(turns) and turns[-1:] != [] and all(
        isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str) for turn in turns
    )  # fmt: skip
    if not whole or turns[-1]["role"] != "user":
        raise UserError(
            f"{where}: `messages` should be turns of role ({', '.join(ROLES)}) and content, the last a user's"
        )
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]
