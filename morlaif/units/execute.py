"""Build one unit, or several of one stage in one go, in this process."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from morlaif.errors import MACHINE, Damaged, MachineError, ProcessFailed, UserError, describe
from morlaif.files import read_json_lines
from morlaif.hardware import HardwareSettings
from morlaif.texts import redact
from morlaif.units.folders import full_disk
from morlaif.units.job import Job, gather
from morlaif.units.store import Places, State, Store, Tell
from morlaif.units.unit import Ends, Summary, Unit

METRICS = "metrics.jsonl"
OnProgress = Callable[[int, int | None, dict[str, float]], None]
AnyJob = Job[Any, Any]
Build = Callable[[Unit, AnyJob], Summary | None]  # writes a unit's artifact; returns its headline numbers
BuildTogether = Callable[[Sequence[Unit], Sequence[AnyJob]], Ends]


def build_here(unit: Unit, job: AnyJob) -> Summary | None:
    """Run the stage in this process."""
    with _freed(unit):
        _prepare(job.hardware)
        return unit.stage.build(job)


def build_together_here(units: Sequence[Unit], jobs: Sequence[AnyJob]) -> Ends:
    """Run the stage once for all of them, in this process."""
    with _freed(units[0]):
        _prepare(jobs[0].hardware)
        return units[0].stage.build_together(jobs)


@contextmanager
def _freed(unit: Unit) -> Iterator[None]:
    """Models refer to themselves: those of one unit would stay in memory beside those of the next in this process.

    So would what they computed: glibc keeps pieces of up to 32 MB in its heap, gigabytes of them after a training step.
    """
    try:
        yield
    finally:
        if unit.stage.loads_model:
            gc.collect()
            with suppress(OSError, AttributeError):  # another C library
                ctypes.CDLL(None).malloc_trim(0)


def execute(
    unit: Unit,
    store: Store,
    hardware: HardwareSettings,
    on_progress: OnProgress,
    tell: Tell,
    build: Build = build_here,
) -> State:
    """Have `unit` in the store, made by `build`. Its needs must be there. Raises whatever `build` raises."""

    def make(out: Path, keep: Path) -> dict[str, Any]:
        with _recorded(keep, on_progress, partial(tell, unit, "resumed")) as progress:
            summary = build(unit, make_job(unit, store, hardware, out, keep, progress)) or {}
        write_metrics(out / METRICS, _last_of_each_step(keep / METRICS))
        return summary

    return store.build(unit, make, tell)


@contextmanager
def _recorded(keep: Path, on_progress: OnProgress, tell: Callable[[str], None]) -> Iterator[OnProgress]:
    """`on_progress` that also writes down metrics, in `keep`: a resumed unit goes on from its checkpoint.

    `tell` hears once where that is. What was measured before it is passed on first, so that whoever listens hears of
    each step once.
    """
    earlier = _last_of_each_step(keep / METRICS)
    first = True
    with (keep / METRICS).open("a", encoding="utf-8") as rows:
        if rows.tell():
            rows.write("\n")  # half a line ends here; an empty one is none

        def progress(step: int, total: int | None, metrics: dict[str, float]) -> None:
            nonlocal first
            if first and (reached := [row["step"] for row in earlier if row["step"] < step]):
                tell(f"goes on after step {reached[-1]}")
            first = False
            if metrics:
                for row in earlier:
                    if row["step"] < step:
                        on_progress(row["step"], total, row["metrics"])
                earlier.clear()
                rows.write(json.dumps({"step": step, "metrics": metrics}) + "\n")
                rows.flush()
            on_progress(step, total, metrics)

        yield progress
    if first and earlier:  # nothing was left to measure
        tell(f"goes on after step {earlier[-1]['step']}, its last")
    for row in earlier:
        on_progress(row["step"], None, row["metrics"])


def make_job(
    unit: Unit, store: Store, hardware: HardwareSettings, out: Path, keep: Path, on_progress: OnProgress
) -> AnyJob:
    needs: Any = gather(unit.stage.needs, {need.name: store.folder(need) for need in unit.needs})
    return Job(
        unit.stage.name, unit.name, unit.digest, unit.reads, needs, out, keep, store.ledger, unit.seed, hardware,
        on_progress,
    )  # fmt: skip


def execute_and_tell(
    unit: Unit,
    store: Store,
    hardware: HardwareSettings,
    emit: Callable[[dict[str, Any]], None],
    build: Build = build_here,
) -> None:
    """`execute`, with its progress and its end, good or bad, as events."""

    def tell(kind: str, **payload: Any) -> None:
        emit({"kind": kind, "unit": unit.name, **payload})

    with _failures(tell, store, [unit]):
        state = execute(
            unit, store, hardware,
            on_progress=lambda step, total, metrics: tell("progress", step=step, total=total, metrics=metrics),
            tell=lambda _, kind, line: tell(kind, line=line),
            build=build,
        )  # fmt: skip
        tell("done", state=state)


def execute_together_and_tell(
    units: Sequence[Unit],
    store: Store,
    hardware: HardwareSettings,
    emit: Callable[[dict[str, Any]], None],
    build_together: BuildTogether = build_together_here,
) -> None:
    """Have `units` of one stage in the store, those that are missing built in one call of its `build_together`."""

    def tell(unit: Unit, kind: str, **payload: Any) -> None:
        emit({"kind": kind, "unit": unit.name, **payload})

    def say(unit: Unit, kind: str, line: str) -> None:
        tell(unit, kind, line=line)

    def report(unit: Unit, step: int, total: int | None, metrics: dict[str, float]) -> None:
        tell(unit, "progress", step=step, total=total, metrics=metrics)

    def make(missing: Sequence[Unit], places: Places) -> Ends:
        with ExitStack() as files:
            jobs = []
            for unit in missing:
                keep = places[unit.name][1]
                progress = files.enter_context(_recorded(keep, partial(report, unit), partial(say, unit, "resumed")))
                jobs.append(make_job(unit, store, hardware, *places[unit.name], progress))
            made = build_together(missing, jobs)
        for unit in missing:
            out, keep = places[unit.name]
            write_metrics(out / METRICS, _last_of_each_step(keep / METRICS))
        return made

    def fail(kind: str, **payload: Any) -> None:
        for unit in units:
            tell(unit, kind, **payload)

    with _failures(fail, store, units):
        ends = store.build_together(units, make, say)
        for unit in units:
            end = ends[unit.name]
            if isinstance(end, Exception):
                with _failures(partial(tell, unit), store, [unit]):
                    raise end
            else:
                tell(unit, "done", state=end)


@contextmanager
def _failures(tell: Callable[..., None], store: Store, units: Sequence[Unit]) -> Iterator[None]:
    """An error inside becomes an event, without the secrets that a service repeats in its errors."""

    def fail(error: str, user_error: bool = False, traceback: str = "") -> None:
        tell("failed", error=redact(error), user_error=user_error, traceback=redact(traceback))

    try:
        yield
    except UserError as error:
        fail(str(error), user_error=True)
    except MachineError as error:
        fail(_of_input(store, units) or str(error))
    except ProcessFailed as error:
        if error.asked:
            tell("failed", error=str(error), user_error=False, traceback="", asked=True)
        else:
            fail(_of_full_disk(error, store.root) or str(error), traceback=error.traceback)
    except Exception as error:
        text = traceback.format_exc()
        if line := _of_full_disk(error, store.root) or _of_input(store, units):
            fail(line)
        else:
            fail(describe(error), traceback=text)


def _of_full_disk(error: BaseException, store: Path) -> str | None:
    """One line if `error`, or what it came from, is that of a full disk, however a library words it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in MACHINE:
            return describe(cause)
        cause = cause.__cause__ or cause.__context__
    with suppress(OSError):
        if full := full_disk("paths.store", store):
            return f"{full} ({describe(error)})"
    return None


def _of_input(store: Store, units: Sequence[Unit]) -> str | None:
    """One line if something that the units need is damaged, which is then set aside."""
    for need in {need.name: need for unit in units for need in unit.needs}.values():
        with suppress(UserError, MachineError):
            if line := store.read_again(need):
                return f"it needs {need.name}; {line} by the same command"
    return None


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows `{step, metrics}` of a finished unit.

    Raises:
        Damaged: they are not as they were written.
    """
    path = folder / METRICS
    if path.is_file():
        for number, row in read_json_lines(path, "a row {step, metrics}", failure=Damaged):
            if not _is_row(row):
                raise Damaged(f"{path}:{number}: expected a row {{step, metrics}}")
            yield row


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("metrics"), dict)


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _last_of_each_step(path: Path) -> list[dict[str, Any]]:
    """A resumed loop repeats the steps since its checkpoint; a kill may leave half a line."""
    rows: dict[int, dict[str, Any]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, RecursionError):
                if _is_row(row := json.loads(line)):
                    rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def _prepare(hardware: HardwareSettings) -> None:
    """Before a stage's libraries are imported: no telemetry, no bars in the logs, no more threads than were given.
    What they say of one another is not for whoever reads the console."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if hardware.device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where it is there, would warn that it found no GPU
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    from morlaif.models import compiled, graphs, packing

    graphs.enabled = hardware.cuda_graphs
    packing.enabled = hardware.packing
    compiled.enabled = hardware.compile
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
