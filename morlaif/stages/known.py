"""The stages of a run, in the order in which data flows, and those of users' packages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from morlaif.registry import Registry
from morlaif.stages import (
    backbone,
    best_of_n,
    compare,
    data,
    dpo,
    evaluate,
    feedback,
    front,
    online_dpo,
    pm,
    ppo,
    rejection,
    report,
    respond,
    sft,
    teacher,
    weigh,
)
from morlaif.stages.scoring import Method
from morlaif.units.unit import Stage

STAGES: tuple[Stage[Any, Any], ...] = (
    data.STAGE, sft.STAGE, respond.STAGE, feedback.STAGE, backbone.STAGE, pm.STAGE, weigh.STAGE, ppo.STAGE,
    dpo.STAGE, best_of_n.STAGE, rejection.STAGE, teacher.STAGE, online_dpo.STAGE, evaluate.STAGE, front.STAGE,
    report.STAGE,
)  # fmt: skip
ALONE = compare.STAGE  # reads finished runs: no part of a run
NAMES = tuple(stage.name for stage in STAGES)


METHODS: Registry[type[Method[Any, Any]]] = Registry(
    "method", "method", "morlaif.stages.ppo",
    {
        "ppo": "morlaif.stages.ppo.PPO",
        "dpo": "morlaif.stages.dpo.DPO",
        "best_of_n": "morlaif.stages.best_of_n.BestOfN",
        "rejection": "morlaif.stages.rejection.Rejection",
        "teacher": "morlaif.stages.teacher.Teacher",
        "online_dpo": "morlaif.stages.online_dpo.OnlineDPO",
    },
)  # fmt: skip
OTHERS: Registry[type[Stage[Any, Any]]] = Registry("stage", "stage", "morlaif.stages", {})


def reached(stages: Iterable[str]) -> tuple[str, ...]:
    """All stages up to the furthest of `stages`; methods stand side by side, so one of them reaches all."""
    named = {*stages}
    named |= {*METHODS.known} if named & {*METHODS.known} else set()
    furthest = max((NAMES.index(stage) for stage in named if stage in NAMES), default=-1)
    return NAMES[: furthest + 1]
