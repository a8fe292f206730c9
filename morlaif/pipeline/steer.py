"""`morlaif steer`: what a policy of a finished run that takes weights answers at given ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from morlaif.steer.conditioning import FILE, Steering, read_steering, shares_of
from morlaif.steer.settings import AnswerSettings
from morlaif.texts import say
from morlaif.units.store import Store

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Steerable:
    """A policy that takes weights, and how its run's evaluation has policies answer."""

    folder: Path
    arm: str
    steering: Steering
    answering: Answering
    model: ModelSettings

    def answers(
        self, prompts: Sequence[list[Message]], weights: Mapping[str, float], seed: int, hardware: HardwareSettings
    ) -> list[str]:
        """Its answer to each prompt at these weights."""
        import torch
        from transformers import PreTrainedModel, PreTrainedTokenizerBase

        from morlaif.models.load import load_policy

        def load() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
            dtype = getattr(torch, hardware.dtype)
            model, tokenizer = load_policy(self.folder, dtype=dtype, device=hardware.device, base=self.model)
            return self.steering.at(model, weights), tokenizer

        told = [self.steering.told(messages, weights) for messages in prompts]
        return respond(load, told, self.answering, seed=seed).texts


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
    told = ", ".join(f"{name} {share:.3g}" for name, share in zip(policy.steering.names, shares, strict=True))
    say(console, f"{policy.arm} at {told}")
    if config.dry_run:
        return
    texts = policy.answers(prompts, weights, asked.seed, config.hardware)
    if asked.out is None:
        for text in texts:
            say(console, text, lines=True)
        return
    named = dict(zip(policy.steering.names, shares, strict=True))
    rows = [{"messages": p, "weights": named, "response": text} for p, text in zip(prompts, texts, strict=True)]
    out = Path(asked.out).expanduser()
    write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    say(console, f"written: {out}, {len(rows)} answers")


def steerable(asked: AnswerSettings, config: Config) -> Steerable:
    """The policy that is asked."""
    folders = compare.find([asked.run or ""], config.paths.runs, "steer.run")
    if len(folders) > 1:
        raise UserError(f"steer.run: '{asked.run}' matches {len(folders)} runs; one policy answers")
    run = compare.read(folders[0], Store(config.paths.store))
    if run is None or run.damaged:
        raise UserError(f"steer.run: {run.damaged if run else folders[0].name}")
    arms, found = [], dict[str, tuple[Path, Steering]]()
    for name, digest in run.units.items():
        method, _, arm = name.partition("/")
        folder = run.folders.get(f"{method}/{digest}")
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
        return Steerable(found[arm][0], arm, found[arm][1], Answering(**answering), _model(run.config))
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
