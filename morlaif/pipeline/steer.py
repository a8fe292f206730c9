"""`morlaif steer`: what a policy of a finished run that takes weights answers at given ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from morlaif.config import Config
from morlaif.data.records import Message
from morlaif.errors import Damaged, UserError, suggest
from morlaif.evaluation.policies import respond
from morlaif.evaluation.settings import Answering
from morlaif.files import read_json_lines
from morlaif.hardware import HardwareSettings
from morlaif.models.settings import ModelSettings
from morlaif.pipeline import compare
from morlaif.pipeline.record import write_whole
from morlaif.stages.known import METHODS
from morlaif.steer import conditioning, simplex
from morlaif.steer.conditioning import FILE, Steering, read_steering, shares_of
from morlaif.steer.page import Cell, GridPage
from morlaif.steer.settings import AnswerSettings
from morlaif.texts import say
from morlaif.units.store import Store

MOST_POINTS = 500  # of a page's grid
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Steerable:
    """A policy that takes weights, and how its run's evaluation has policies answer."""

    folder: Path
    arm: str
    steering: Steering
    answering: Answering
    model: ModelSettings
    run: compare.RunFolder

    def answers(
        self,
        prompts: Sequence[list[Message]],
        each: Sequence[Mapping[str, float]],
        seed: int,
        hardware: HardwareSettings,
    ) -> Iterator[list[str]]:
        """Its answers to the prompts at each of these weights, the noise the same."""
        import torch

        from morlaif.models.load import load_policy

        dtype = getattr(torch, hardware.dtype)
        model, tokenizer = load_policy(self.folder, dtype=dtype, device=hardware.device, base=self.model)
        for weights in each:
            told = [self.steering.told(messages, weights) for messages in prompts]
            aimed = self.steering.at(model, weights), tokenizer
            yield respond(partial(tuple, aimed), told, self.answering, seed=seed).texts

    def scorer(
        self, hardware: HardwareSettings
    ) -> Callable[[Sequence[list[Message]], Sequence[str]], list[tuple[float, ...]]] | None:
        """Scores by the run's preference models of its principles, on the frozen mean and deviation of SFT's answers;
        None where one of them is not there."""
        import torch

        from morlaif.models.load import source_of
        from morlaif.preference.bank import PreferenceBank
        from morlaif.scalarize.functions import linear
        from morlaif.scalarize.objective import Objective

        names = self.steering.names
        pms = {name: self.run.folder_of(f"pm/{name}") for name in names}
        sft, weigh = self.run.folder_of("sft"), self.run.folder_of(f"weigh/{self.arm}")
        found = {name: folder for name, folder in pms.items() if folder is not None}
        if sft is None or weigh is None or len(found) < len(names):
            return None
        dtype = getattr(torch, hardware.dtype)
        bank = PreferenceBank.load(found, source_of(sft, self.model), hardware.device, dtype)
        objective = Objective.load(weigh / "weights.json", linear, names)

        def score(prompts: Sequence[list[Message]], texts: Sequence[str]) -> list[tuple[float, ...]]:
            table = objective.standardize(bank.score(prompts, texts).float().cpu())
            return [tuple(round(value, 3) for value in row) for row in table.tolist()]

        return score


def answer(config: Config, console: Console) -> None:
    """Answer the prompts of the group `steer`.

    Raises:
        UserError: the run has no policy that takes weights, the weights are none of its, or the file holds no prompts.
    """
    asked = config.steer
    policy = steerable(asked, config)
    weights = policy.steering.usual if asked.weights is None else asked.weights
    shares = shares_of(weights, policy.steering.names, "steer.weights")
    prompts = [_said(asked.prompt)] if asked.prompt is not None else list(_read(Path(asked.prompts or "").expanduser()))
    if asked.page is not None:
        _page(policy, asked, prompts, config, console)
        return
    told = ", ".join(f"{name} {share:.3g}" for name, share in zip(policy.steering.names, shares, strict=True))
    say(console, f"{policy.arm} at {told}")
    if config.dry_run:
        return
    (texts,) = policy.answers(prompts, [weights], asked.seed, config.hardware)
    if asked.out is None:
        for text in texts:
            say(console, text, lines=True)
        return
    named = dict(zip(policy.steering.names, shares, strict=True))
    rows = [{"messages": p, "weights": named, "response": text} for p, text in zip(prompts, texts, strict=True)]
    out = Path(asked.out).expanduser()
    write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    say(console, f"written: {out}, {len(rows)} answers")


def _page(
    policy: Steerable, asked: AnswerSettings, prompts: list[list[Message]], config: Config, console: Console
) -> None:
    """Answer at every point of the grid, score that by the run's preference models, and write the page."""
    names, out = policy.steering.names, Path(asked.page or "").expanduser()
    points = simplex.grid(len(names), asked.steps)
    if len(points) > MOST_POINTS:
        raise UserError(
            f"steer.steps: {asked.steps} steps of {len(names)} weights are {len(points):,} points, and a page holds "
            f"{MOST_POINTS:,}; take fewer steps"
        )
    say(console, f"{policy.arm} at {len(points)} points of {', '.join(names)}, {len(prompts)} prompts each")
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
    start = conditioning.rounded(policy.steering.own, asked.steps)
    title = f"{policy.run.folder.name}: {policy.arm}, at weights of yours"
    write_whole(out, GridPage(title, names, asked.steps, start, prompts, cells).render())
    say(console, f"written: {out}")


def steerable(asked: AnswerSettings, config: Config) -> Steerable:
    """The policy that is asked."""
    folders = compare.find([asked.run or ""], config.paths.runs, "steer.run")
    if len(folders) > 1:
        raise UserError(f"steer.run: '{asked.run}' matches {len(folders)} runs; one policy answers")
    run = compare.read(folders[0], Store(config.paths.store))
    if run is None or run.damaged:
        raise UserError(f"steer.run: {run.damaged if run else folders[0].name}")
    arms, found = [], dict[str, tuple[Path, Steering]]()
    for name in run.units:
        method, _, arm = name.partition("/")
        folder = run.folder_of(name)
        if method in METHODS.known and arm and folder is not None:
            arms.append(arm)
            if (steering := read_steering(folder)) is not None:
                found[arm] = folder, steering
    if asked.arm is not None and asked.arm not in arms:
        raise UserError(
            f"steer.arm: {folders[0].name} has no policy '{asked.arm}' in a store that can be reached; it has "
            f"{', '.join(arms) or 'none'}.{suggest(asked.arm, arms)}"
        )
    if not found or (asked.arm is not None and asked.arm not in found):
        raise UserError(
            f"steer.run: {folders[0].name} has no policy that takes weights ({FILE} beside it); its arms are "
            f"{', '.join(arms) or 'not built'}. Train one: arms.select=[conditioned], or ppo.steer.kind=text"
        )
    arm = asked.arm or next(iter(found))
    try:
        answering = {name: run.config["eval"][name] for name in Answering.model_fields}
        if asked.temperature is not None:
            answering["temperature"] = asked.temperature
        return Steerable(found[arm][0], arm, found[arm][1], Answering(**answering), _model(run.config), run)
    except (KeyError, ValueError) as error:
        raise Damaged(f"{folders[0] / 'config.json'}: not as this version writes it: {error}") from None


def _model(config: Mapping[str, Any]) -> ModelSettings:
    return ModelSettings.model_validate(config["model"])


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
