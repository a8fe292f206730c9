"""The smallest change under which a stage would fit: by trying changes, those that cost least first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from morlaif.hardware import HardwareSettings

Fits = Callable[[Sequence[str]], bool]  # whether the stage fits under these overrides
MOST = 3  # changes together
LARGER = ("gpu", "a100x8_zero2", "a100x8_zero3_lora", "a100x8_zero3_offload", "multinode_zero3")


def advise(smaller: Sequence[str], simpler: Sequence[str], hardware: HardwareSettings, fits: Fits) -> list[list[str]]:
    """Ways in which a stage fits, each a list of overrides: one that keeps the method, one that changes it.

    `smaller` and `simpler` are the stage's own changes, of no result and of less that learns, cheapest first. The first
    way is for this machine, or else for a larger one. A single change where one is enough, else few together; none
    where none of these help.
    """
    same = [*smaller, *of_machine(hardware)]
    ways = [_search(same, fits) or _search([*_machines(hardware), *same], fits)]
    ways.append(_search([*simpler, *same], fits) if simpler else None)
    return [way for way in ways if way is not None]


def halves(key: str, size: int) -> Iterator[str]:
    """Smaller values of a size."""
    while (size := size // 2) >= 1:
        yield f"{key}={size}"


def of_machine(hardware: HardwareSettings) -> Iterator[str]:
    """Changes of how the machine is used, which change no result."""
    if hardware.device == "cpu":
        return
    if hardware.dtype == "float32":
        yield "hardware.dtype=bfloat16"
    if hardware.ranks > 1:
        if hardware.zero.stage == 3 and hardware.zero.gather_to_sample > 0:
            yield "hardware.zero.gather_to_sample=0"
        if hardware.zero.stage < 3:
            yield "hardware.zero.stage=3"
        if not hardware.zero.offload_optimizer:
            yield "hardware.zero.offload_optimizer=true"
        if not hardware.zero.offload_parameters:
            yield "hardware.zero.offload_parameters=true"


def _machines(hardware: HardwareSettings) -> Iterator[str]:
    if hardware.device != "cpu":
        for preset in LARGER:
            yield f"hardware={preset}"


def _search(changes: Sequence[str], fits: Fits) -> list[str] | None:
    for change in changes:
        if fits([change]):
            return [change]
    taken: list[str] = []
    for change in changes:  # the first that help together; then leave out those that were not needed
        key = change.split("=")[0]
        taken = [other for other in taken if other.split("=")[0] != key] + [change]
        if fits(taken):
            for other in list(taken):
                rest = [one for one in taken if one != other]
                if fits(rest):
                    taken = rest
            return taken if len(taken) <= MOST else None
    return None
