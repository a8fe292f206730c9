"""One run from a validated config: build what is missing, then gather its numbers and its page."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from morlaif.config import Config
from morlaif.errors import MACHINE, Damaged, MachineError, UserError, describe, of_system
from morlaif.evaluation.results import RunResults, parse
from morlaif.files import read_json, read_json_lines
from morlaif.pipeline.dispatch import Dispatcher
from morlaif.pipeline.display import Display, closing
from morlaif.pipeline.preflight import Preflight
from morlaif.pipeline.record import HUMAN, LOCK, Run, Status, failures, write_config, write_whole
from morlaif.pipeline.served import with_served
from morlaif.pipeline.tracked import headline
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan as make_plan
from morlaif.planning.settle import settled
from morlaif.texts import file_name, redact, say
from morlaif.tracking import METRICS, Tracker, open_tracker
from morlaif.units.folders import full_disk
from morlaif.units.locks import locked
from morlaif.units.store import Store
from morlaif.units.unit import Plan


class RunFailed(Exception):
    """Something could not be built; a line for each unit that failed, or for the run, and where its traceback is."""


def run(config: Config, folder: Path, *, command: str, overrides: list[str], group: str, console: Console) -> None:
    """Build `config` into the store and its record into `folder`. Where another process does so already, wait for it.

    Raises:
        RunFailed: a unit failed. The others were built as far as their needs went.
        UserError: a unit failed by a mistake in the config or the data.
        MachineError: the folder or the store cannot be written.
    """

    def waiting(holder: str) -> None:
        say(console, f"{folder} is being built by {holder}; waiting for its end")

    with _one_line_for_files(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with _one_line_for_files(folder):
            held.enter_context(locked(folder / LOCK, waiting))
            if full := full_disk("paths.runs", folder):
                raise full
            record = Run.open(folder, config, command, overrides)
        with _closing_on_error(record):
            mistaken = _build(config, record, group=group, console=console)
        if lines := failures(record):
            raise (UserError if mistaken else RunFailed)("\n".join(lines))


def _build(config: Config, record: Run, *, group: str, console: Console) -> bool:
    """Build all that can be; whether a unit failed by the user's mistake."""
    folder = record.folder
    config = settled(config, partial(say, console))
    preflight = Preflight(partial(say, console))
    preflight.check([config])
    config = with_served(config, partial(say, console), wait=True)
    preflight.check_ready(config)
    write_config(folder, config)  # as the workers are to read it
    contents = Contents(config.paths.store, partial(say, console))
    plan = make_plan(config, contents)
    contents.save(folder)
    plan.check_batches(config.hardware.ranks)
    record.plan(plan)
    store = Store(config.paths.store)
    store.check_place(plan.units)
    (folder / METRICS).unlink(missing_ok=True)  # the store keeps those of finished units; they are read again
    tracker = open_tracker(
        config.tracking, folder,
        name=folder.name, group=group, run_id=folder.name, tags=_tags(config),
        config=config.model_dump(mode="json", exclude={"paths"}), warn=partial(say, console),
    )  # fmt: skip
    with Display(console) as display:
        dispatcher = Dispatcher(plan, store, config.hardware, record, tracker, display)
        built_all = dispatcher.build()
    record.mistaken = dispatcher.mistaken
    record.close("succeeded" if built_all else "failed")
    results = gather_results(plan, store, folder)
    report = gather_report(plan, store, record)
    _tell(tracker, plan, store, results, folder)
    tracker.close(failed=not built_all)
    if built_all or any(unit.state == "built" for unit in record.units):
        closing(console, record, results, report)
    return dispatcher.mistaken


@contextmanager
def _one_line_for_files(folder: Path) -> Iterator[None]:
    """An error of the system inside becomes one line that names the run folder."""
    try:
        yield
    except OSError as error:
        raise of_system(error, f"paths.runs: {error.filename2 or error.filename or folder}") from error


@contextmanager
def _closing_on_error(record: Run) -> Iterator[None]:
    """Whatever ends a run early, its record says so; an error that is nobody's mistake leaves its traceback."""
    try:
        yield
    except (UserError, MachineError) as error:
        record.mistaken = isinstance(error, UserError)
        _close(record, "failed", str(error))
        raise
    except Exception as error:
        _close(record, "failed", describe(error))
        if isinstance(error, OSError) and (error.errno in MACHINE or str(record.folder) in str(error)):
            raise of_system(error) from error
        raise RunFailed(_with_traceback(record, error)) from error
    except BaseException:
        _close(record, "interrupted")
        raise


def _close(record: Run, status: Status, error: str | None = None) -> None:
    with suppress(OSError):  # what ends the run is what matters, and its folder may be why
        record.close(status, error)


def _with_traceback(record: Run, error: Exception) -> str:
    log = record.folder / "logs" / "run.traceback.txt"
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text(redact("".join(traceback.format_exception(error))), encoding="utf-8")
    except OSError:
        return describe(error)
    return f"{describe(error)}; traceback: {log}"


def gather_results(plan: Plan, store: Store, folder: Path) -> dict[str, Any]:
    """Write results.json: the numbers of `evaluate` and the seconds that all of the run's units took to build."""
    evaluate = plan.by_name.get("evaluate")
    if evaluate is None or not store.has(evaluate):
        return {}
    results = read_json(store.folder(evaluate) / "results.json", "the run's results", of=dict, failure=Damaged)
    results["seconds"] = round(sum(store.manifest(unit)["seconds"] for unit in plan.units if store.has(unit)), 1)
    write_whole(folder / "results.json", json.dumps(results, indent=1))
    return results


def gather_report(plan: Plan, store: Store, record: Run) -> Path | None:
    """Write report.html, the stored page completed with how this run came by it and with what raters answered, and
    its figures beside it."""
    unit = plan.by_name.get("report")
    if unit is None or not store.has(unit):
        return None
    from morlaif.report.page import add_run

    stored = store.folder(unit)
    page, html = record.folder / "report.html", add_run((stored / "report.html").read_text("utf-8"), record.as_dict())
    if (record.folder / HUMAN).is_file():
        from morlaif.report.people import add_people

        html = add_people(html, read_json(record.folder / HUMAN, "what raters answered", of=dict, failure=Damaged))
    write_whole(page, html)
    if (stored / "figures").is_dir():
        shutil.copytree(stored / "figures", record.folder / "figures", dirs_exist_ok=True)
    return page


def _tags(config: Config) -> list[str]:
    return [config.name, config.model.name, config.scalarizer.name, f"{len(config.principles.chosen)} principles"]


def _tell(tracker: Tracker, plan: Plan, store: Store, results: Mapping[str, Any], folder: Path) -> None:
    """What a run leaves besides its metrics: results, samples, figures, and its artifacts by reference."""
    if results:
        known = {key: value for key, value in results.items() if key != "seconds"}
        where = folder / "results.json"
        tracker.summary(headline(parse(RunResults, known, where), results["seconds"]), results)
        for name, (columns, rows) in _sample_tables(store.folder(plan.by_name["evaluate"]) / "samples.jsonl").items():
            tracker.table(name, columns, rows)
    figures = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    if figures:
        tracker.images(figures)
    for unit in plan.units:
        if (kind := unit.stage.artifact) is not None and store.has(unit):
            about = {"digest": unit.digest, **store.manifest(unit)["summary"]}
            tracker.artifact(file_name(unit.name), kind, store.folder(unit), about)


def _sample_tables(file: Path) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Columns and rows: `samples` with the policies side by side, `sample_scores` with a row for each response."""
    rows = [row for _, row in read_json_lines(file, "a sample a line", failure=Damaged)]
    if not rows:
        return {}
    policies = list(rows[0]["responses"])
    scored = list(rows[0]["responses"][policies[0]]["scores"])
    side_by_side, single = [], []
    for row in rows:
        prompt, answers = row["messages"][-1]["content"], row["responses"]
        side_by_side.append([prompt, *(answers[policy]["text"] for policy in policies)])
        for policy, answer in answers.items():
            scores = (answer["scores"][name] for name in scored)
            single.append([prompt, policy, answer["text"], answer["tokens"], *scores])
    return {
        "samples": (["prompt", *policies], side_by_side),
        "sample_scores": (["prompt", "policy", "response", "tokens", *scored], single),
    }
