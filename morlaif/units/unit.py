"""A unit of work and its digest: what a stage would build, known before it is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from morlaif.settings import identity

DIGEST_LENGTH = 16  # hex digits: 64 bits name a folder in one person's store


@dataclass(frozen=True, eq=False)
class Unit:
    """One folder in the store, finished or to come."""

    stage: str  # "pm"
    name: str  # "pm/helpfulness"
    version: int  # raised when the stage's code changes what it builds
    reads: Mapping[str, Any]  # the settings it reads
    needs: tuple[Unit, ...] = ()
    files: tuple[str, ...] = ()  # hashes of what the input files hold: where they lie does not count
    together: str | None = None  # units of one key may be built in one go (`build_together` of their stage)
    paired: bool = False  # units of this stage share their random numbers, so that arms differ in treatment alone

    @cached_property
    def digest(self) -> str:
        return hash_json(self.identity)[:DIGEST_LENGTH]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides what is built, as JSON; stands in the manifest."""
        return {
            "stage": self.stage,
            "name": self.name,
            "version": self.version,
            "reads": identity(self.reads),
            "needs": {need.name: need.digest for need in self.needs},
            "files": [*self.files],
        }

    @property
    def seed(self) -> int:
        """In [0, 2^31), from the run's seed and the unit's name."""
        key = f"{self.reads.get('seed', 0)}/{self.stage if self.paired else self.name}"
        return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) >> 1


@dataclass(frozen=True)
class Plan:
    """The units of a run in an order in which each stands after what it needs."""

    units: tuple[Unit, ...]
    by_name: Mapping[str, Unit] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {unit.name: unit for unit in self.units})

    def restricted_to(self, stages: Iterable[str]) -> Plan:
        """The units of `stages` and all that they need."""
        wanted: set[str] = set()

        def want(unit: Unit) -> None:
            if unit.name not in wanted:
                wanted.add(unit.name)
                for need in unit.needs:
                    want(need)

        stages = set(stages)
        for unit in self.units:
            if unit.stage in stages:
                want(unit)
        return Plan(tuple(unit for unit in self.units if unit.name in wanted))


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
