"""What a stage gets: the settings that its digest covers, its inputs, a place to write, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

if TYPE_CHECKING:
    import torch

    from morlaif.hardware import HardwareSettings


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a unit reads, as its stage declares it in a frozen dataclass: the digest covers all of it.

    A field with a default is left out of the digest where it has that value, so one that is added later changes none.
    """

    seed: int  # of the run
    contents: Mapping[str, str] = field(default_factory=dict)  # of what is named above and lies outside: its identity


REST = {"rest": True}  # marks a field of a class of needs that takes the units of all stages that no other field names
R = TypeVar("R", bound=Reads)
N = TypeVar("N")


@dataclass(frozen=True)
class Job(Generic[R, N]):
    """One unit of work, handed to the `build` of its stage."""

    stage: str  # "pm"
    name: str  # "pm/helpfulness"
    digest: str  # names the folder in the store
    reads: R  # a stage cannot read what would not change its digest
    needs: N  # finished folders
    out: Path  # empty; becomes the artifact
    keep: Path  # survives a kill of this unit: checkpoints
    ledger: Path  # paid verdicts, shared by all runs of the store
    seed: int  # from the run's seed and the unit's name
    hardware: HardwareSettings
    on_progress: Callable[[int, int | None, dict[str, float]], None]

    def progress(self, step: int, total: int | None, **metrics: float) -> None:
        """Report `step` of `total` (None: unknown) with the metrics of this step."""
        self.on_progress(step, total, metrics)

    @cached_property
    def device(self) -> torch.device:
        import torch

        choice = self.hardware.device
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if choice == "auto" else choice)

    @cached_property
    def dtype(self) -> torch.dtype:
        import torch

        made: torch.dtype = getattr(torch, self.hardware.dtype)
        return made


def gather(kind: type[N], folders: Mapping[str, Path]) -> N:
    """The folders of a unit's needs, by unit name, as the class that a stage declares.

    A field is called as the stage that it needs: `Path` for its one unit, `Path | None` for one that may be absent, a
    mapping for units such as pm/<name>, by what is behind the slash. `dict` takes all, by unit name.

    Raises:
        TypeError: what is there is not what the class declares; a plan that does not fit its stage.
    """
    if kind is dict:
        return dict(folders)  # type: ignore[return-value]
    hints, parts = get_type_hints(kind), fields(kind)  # type: ignore[arg-type]  # a dataclass, see above
    given: dict[str, Any] = {}
    named = {part.name for part in parts if not part.metadata.get("rest")}
    for part in parts:
        own = {
            rest or stage: folder
            for stage, _, rest, folder in ((*name.partition("/"), folder) for name, folder in folders.items())
            if (stage not in named if part.metadata.get("rest") else stage == part.name)
        }
        hint = hints[part.name]
        if not (hint is Path or hint == Path | None):
            given[part.name] = own
        elif len(own) == 1 or (hint is not Path and not own):
            given[part.name] = next(iter(own.values()), None)
        else:
            raise TypeError(f"{kind.__name__}.{part.name}: expected one unit, got {list(own) or 'none'}")
    if named == {part.name for part in parts} and (
        strange := [name for name in folders if name.partition("/")[0] not in named]
    ):
        raise TypeError(f"{kind.__name__} declares no {', '.join(strange)}")
    return kind(**given)
