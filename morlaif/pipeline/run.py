"""One run from a validated config: build what is missing, then gather its numbers and its page."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from morlaif.config import Config
from morlaif.errors import UserError, describe
from morlaif.pipeline.dispatch import Dispatcher
from morlaif.pipeline.display import Display, closing
from morlaif.pipeline.plan import plan as make_plan
from morlaif.pipeline.record import Run, write_whole
from morlaif.pipeline.store import Store
from morlaif.pipeline.unit import Plan
from morlaif.tracking import METRICS, Tracker, open_tracker


class RunFailed(Exception):
    """Some units could not be built; the run folder says which and why."""


def run(config: Config, folder: Path, *, command: str, overrides: list[str], group: str, console: Console) -> None:
    """Build `config` into the store and its record into `folder`.

    Raises:
        RunFailed: a unit failed. The others were built as far as their needs went.
        UserError: a unit failed by a mistake in the config or the data.
    """
    record = Run.open(folder, config, command, overrides)
    with _closing_on_error(record):
        plan = make_plan(config)
        record.plan(plan)
        store = Store(config.paths.store)
        (folder / METRICS).unlink(missing_ok=True)  # the store keeps those of finished units; they are read again
        tracker = open_tracker(
            config.tracking, folder,
            name=folder.name, group=group, run_id=folder.name, tags=_tags(config),
            config=config.model_dump(mode="json", exclude={"paths"}), warn=console.print,
        )  # fmt: skip
        with Display(console) as display:
            dispatcher = Dispatcher(plan, store, config.hardware, record, tracker, display)
            built_all = dispatcher.build()
        record.close("succeeded" if built_all else "failed")
        results = gather_results(plan, store, folder)
        report = gather_report(plan, store, record)
        samples = store.folder(plan.by_name["evaluate"]) / "samples.jsonl" if results else None
        _tell(tracker, results, samples, folder)
        tracker.close(failed=not built_all)
        closing(console, record, results, report)
    if not built_all:
        failed = ", ".join(unit.name for unit in record.units if unit.state == "failed")
        raise (UserError if dispatcher.mistaken else RunFailed)(f"failed: {failed}")


@contextmanager
def _closing_on_error(record: Run) -> Iterator[None]:
    """Whatever ends a run early, its record says so; an error that is nobody's mistake leaves its traceback."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):
            log = record.folder / "logs" / "run.traceback.txt"
            log.parent.mkdir(exist_ok=True)
            log.write_text(traceback.format_exc())
        record.close("failed", describe(error))
        raise
    except BaseException:
        record.close("interrupted")
        raise


def gather_results(plan: Plan, store: Store, folder: Path) -> dict[str, Any]:
    """Write results.json: the numbers of `evaluate` and the seconds that all of the run's units took to build."""
    evaluate = plan.by_name.get("evaluate")
    if evaluate is None or not store.has(evaluate):
        return {}
    results = json.loads((store.folder(evaluate) / "results.json").read_text())
    results["seconds"] = round(sum(store.manifest(unit)["seconds"] for unit in plan.units if store.has(unit)), 1)
    write_whole(folder / "results.json", json.dumps(results, indent=1))
    return results


def gather_report(plan: Plan, store: Store, record: Run) -> Path | None:
    """Write report.html, the stored page completed with how this run came by it, and its figures beside it."""
    unit = plan.by_name.get("report")
    if unit is None or not store.has(unit):
        return None
    from morlaif.report.page import add_run

    stored = store.folder(unit)
    page = record.folder / "report.html"
    write_whole(page, add_run((stored / "report.html").read_text(), record.as_dict()))
    if (stored / "figures").is_dir():
        shutil.copytree(stored / "figures", record.folder / "figures", dirs_exist_ok=True)
    return page


def _tags(config: Config) -> list[str]:
    return [config.name, config.model.name, config.scalarizer.name, f"{len(config.principles.chosen)} principles"]


def _tell(tracker: Tracker, results: Mapping[str, Any], samples: Path | None, folder: Path) -> None:
    if results:
        tracker.summary(results)
    if samples:
        tracker.samples("samples", *_sample_table(samples))
    figures = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    if figures:
        tracker.images(figures)


def _sample_table(file: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the sample responses: the prompt, then each policy's text."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    policies = list(rows[0]["responses"]) if rows else []
    return ["prompt", *policies], [
        [row["messages"][-1]["content"], *(row["responses"][policy]["text"] for policy in policies)] for row in rows
    ]
