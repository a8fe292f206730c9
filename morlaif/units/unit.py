"""A stage as one object, and a unit of its work with a digest: what it would build, known before it is built."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic

from morlaif.batches import Microbatches
from morlaif.memory.effort import Amounts, Effort
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.settings import identity
from morlaif.units.job import Job, N, R, Reads

DIGEST_LENGTH = 16  # hex digits: 64 bits name a folder in one person's store
Summary = dict[str, Any]  # headline numbers
Ends = Mapping[str, Summary | Exception]  # by unit name


class Stage(Generic[R, N]):
    """All that is known about one stage. A subclass declares what differs; its one instance is the stage.

    The methods are asked before anything is built, so a stage's file imports neither torch nor what imports it; `work`
    is a module with `build(job)`, imported when a unit is built.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # raised when the code changes what it builds
    reads: ClassVar[type[Reads]]
    needs: ClassVar[type] = dict  # a dataclass for `gather`
    work: ClassVar[str] = ""  # dotted
    counts: ClassVar[str] = "step"  # what its progress counts
    artifact: ClassVar[str | None] = None  # what a tracker calls what it leaves; None: trackers do not record it
    loads_model: ClassVar[bool] = False  # of the run: it must be there, and its device
    paired: ClassVar[bool] = False  # units share their random numbers, so that arms differ in treatment alone
    resumes: ClassVar[bool] = False  # from `Job.keep`, which must then be whole

    def build(self, job: Job[R, N]) -> Summary | None:
        """Write the artifact into `job.out`; its headline numbers."""
        made: Summary | None = importlib.import_module(self.work).build(job)
        return made

    def build_together(self, jobs: Sequence[Job[R, N]]) -> Ends:
        """The same for units of one `together`, in one go."""
        made: Ends = importlib.import_module(self.work).build_together(jobs)
        return made

    def on_ranks(self, reads: R) -> bool:
        """Whether several processes build a unit, each its part, where the machine has them."""
        return False

    def microbatches(self, reads: R, ranks: int) -> Microbatches:
        """The microbatches of its batch over ranks; a stage that does not learn has a batch of one.

        Raises:
            UserError: it cannot be.
        """
        return Microbatches(1, 1)

    def clips(self, reads: R) -> float:
        """The largest norm of a gradient, for DeepSpeed; 0: the stage clips by itself."""
        return 0.0

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        """What there is to doubt by a unit's headline numbers, or by those of a step: lines for the console."""
        return iter(())

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        """What one rank takes; None: no model."""
        return None

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort] | None:
        """The work of models in a unit; none: next to nothing; None: not known."""
        return () if not self.loads_model else None

    def smaller(self, reads: R) -> Iterator[str]:
        """Overrides under which it takes less and builds the same, cheapest first."""
        return iter(())

    def simpler(self, reads: R) -> Iterator[str]:
        """Overrides under which less learns."""
        return iter(())


@dataclass(frozen=True, eq=False)
class Unit:
    """One folder in the store, finished or to come."""

    stage: Stage[Any, Any]
    name: str  # "pm/helpfulness"
    reads: Any  # of the class that the stage declares
    needs: tuple[Unit, ...] = ()
    files: tuple[str, ...] = ()  # hashes of what the input files hold: where they lie does not count
    together: str | None = None  # units of one key may be built in one go
    known_as: str = ""  # what digests and seeds call it, where it was renamed: what a store has is found

    @cached_property
    def digest(self) -> str:
        return hash_json(self.identity)[:DIGEST_LENGTH]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides what is built, as JSON, as in the manifest."""
        return {
            "stage": self.stage.name,
            "name": self.key,
            "version": self.stage.version,
            "reads": identity(self.reads),
            "needs": {need.key: need.digest for need in self.needs},
            "files": [*self.files],
        }

    @property
    def key(self) -> str:
        return self.known_as or self.name

    @property
    def seed(self) -> int:
        """In [0, 2^31), from the run's seed and the unit's name."""
        return seed_of(self.reads.seed, self.stage.name if self.stage.paired else self.key)

    def of(self, stage: str) -> list[Unit]:
        """Those that it needs of a stage."""
        return [need for need in self.needs if need.stage.name == stage]

    def on_ranks(self, ranks: int) -> bool:
        return ranks > 1 and self.stage.on_ranks(self.reads)


@dataclass(frozen=True)
class Plan:
    """The units of a run in an order in which each is after what it needs."""

    units: tuple[Unit, ...]
    by_name: Mapping[str, Unit] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {unit.name: unit for unit in self.units})

    def restricted_to(self, stages: Iterable[str], units: Iterable[str] = ()) -> Plan:
        """The units of `stages`, those called `units`, and all that they need."""
        wanted: set[str] = set()

        def want(unit: Unit) -> None:
            if unit.name not in wanted:
                wanted.add(unit.name)
                for need in unit.needs:
                    want(need)

        stages, units = set(stages), set(units)
        for unit in self.units:
            if unit.stage.name in stages or unit.name in units:
                want(unit)
        return Plan(tuple(unit for unit in self.units if unit.name in wanted))

    def check_batches(self, ranks: int) -> None:
        """Report a batch that cannot be split before anything is built.

        Raises:
            UserError: the first one.
        """
        for unit in self.units:
            if unit.on_ranks(ranks):
                unit.stage.microbatches(unit.reads, ranks)


def seed_of(run: int, unit: str) -> int:
    """Of a unit of that name in a run of that seed."""
    return int(hashlib.sha256(f"{run}/{unit}".encode()).hexdigest()[:8], 16) >> 1


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
