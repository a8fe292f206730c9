"""A tiny policy from nothing on the toy world, and a reward of two functions: no preference model to train."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from jobs import typed

from morlaif.data.records import save_examples
from morlaif.evaluation.settings import Answering
from morlaif.hardware import HardwareSettings
from morlaif.models.finetune import finetune
from morlaif.models.load import save_policy
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import FullSFT, ScratchSettings
from morlaif.presets import preset
from morlaif.reward.settings import FunctionReward, MixtureReward, layout
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.toy.world import make_world
from morlaif.units.job import Job

NAMES = ("letters", "spaces")
LINEAR = ScalarizerSettings(name="linear", function="morlaif.scalarize.functions.linear", params={})
ANSWERING = Answering(
    prompts=6, temperature=1.0, top_p=1.0, max_prompt_tokens=None, max_new_tokens=8, stop=(), batch_size=3
)


def letters(prompts: list, responses: list[str]) -> list[float]:
    return [sum(map(str.isalpha, text)) for text in responses]


def spaces(prompts: list, responses: list[str]) -> list[float]:
    return [-float(text.count(" ")) for text in responses]


def folders(root: Path) -> dict[str, Path]:
    """Finished folders of `data`, `sft` and `weigh/arm`."""
    made = {name: root / name for name in ("data", "sft", "weigh/arm")}
    for folder in made.values():
        folder.mkdir(parents=True)
    world = make_world(0, sft=40, train=18, eval=10)
    save_examples(made["data"], world)
    texts = [e.demonstration for e in world["sft"]] + [m["content"] for e in world["sft"] for m in e.messages]
    tokenizer = train_tokenizer(texts, 300)
    shape = preset("model", "toy")["scratch"] | {"hidden_size": 16, "heads": 2, "intermediate_size": 32}
    few = {"max_steps": 80, "learning_rate": 0.02, "batch_size": 8, "warmup": 0}  # until it writes in letters
    how = FullSFT(**preset("sft", "toy", **few))
    model = build_causal_lm(ScratchSettings(**shape), tokenizer, seed=0)
    model, _ = finetune(model, tokenizer, world["sft"], how, seed=0, keep=root / "keep")
    save_policy(model, tokenizer, made["sft"])
    one = torch.ones(2)
    Objective(NAMES, 0 * one, one, one, one, linear).save(made["weigh/arm"] / "weights.json")
    return made


def scoring() -> dict[str, Any]:
    """What a method reads of the reward."""
    parts = {
        name: FunctionReward(kind="function", names=(name,), function=f"online.{name}", params={}) for name in NAMES
    }
    reward = MixtureReward(kind="mixture", parts=parts, weights=dict.fromkeys(parts, 1.0), schedule=None)
    laid = layout(reward, [])
    return {"names": NAMES, "reward": laid, "scalarizer": LINEAR}


def job(stage: Any, name: str, root: Path, needs: dict[str, Path], on_progress: Any = None, **reads: Any) -> Job:
    known = {part.name for part in fields(stage.reads)}
    rewarded = {name: value for name, value in scoring().items() if name in known}
    own, given = typed(stage, rewarded | reads, needs)
    out, keep = root / "out", root / "keep"
    for folder in (out, keep):
        folder.mkdir(parents=True, exist_ok=True)
    return Job(
        stage=stage.name, name=name, digest="0" * 16, reads=own, needs=given, out=out, keep=keep,
        ledger=root / "ledger.sqlite", seed=3, hardware=HardwareSettings(**preset("hardware", "cpu")),
        on_progress=on_progress or (lambda *_: None),
    )  # fmt: skip
