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
    evaluate,
    feedback,
    pm,
    ppo,
    rejection,
    report,
    respond,
    sft,
    weigh,
)
from morlaif.stages.scoring import Method
from morlaif.units.unit import Stage

STAGES: tuple[Stage[Any, Any], ...] = (
    data.STAGE, sft.STAGE, respond.STAGE, feedback.STAGE, backbone.STAGE, pm.STAGE, weigh.STAGE, ppo.STAGE,
    best_of_n.STAGE, rejection.STAGE, evaluate.STAGE, report.STAGE,
)  # fmt: skip
ALONE = compare.STAGE  # reads finished runs: no part of a run
NAMES = tuple(stage.name for stage in STAGES)


def reached(stages: Iterable[str]) -> tuple[str, ...]:
    """All stages up to the furthest of `stages`."""
    furthest = max((NAMES.index(stage) for stage in stages if stage in NAMES), default=-1)
    return NAMES[: furthest + 1]


METHODS: Registry[type[Method[Any, Any]]] = Registry(
    "method", "method", "morlaif.stages.ppo",
    {
        "ppo": "morlaif.stages.ppo.PPO",
        "best_of_n": "morlaif.stages.best_of_n.BestOfN",
        "rejection": "morlaif.stages.rejection.Rejection",
    },
)  # fmt: skip
OTHERS: Registry[type[Stage[Any, Any]]] = Registry("stage", "stage", "morlaif.stages", {})
