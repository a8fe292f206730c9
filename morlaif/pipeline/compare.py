"""Compare finished runs: find them, build their comparison in the store, and lay it down as a page with its files."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from morlaif.errors import Damaged, MachineError, UserError, suggest
from morlaif.evaluation.results import LAYOUT
from morlaif.evaluation.settings import JudgeSettings
from morlaif.files import read_json
from morlaif.hardware import HardwareSettings
from morlaif.pipeline.display import Display, plain_table
from morlaif.pipeline.pm_cost import pm_cost, with_bases_named
from morlaif.pipeline.record import HUMAN, RUN, failure, read_run, write_whole
from morlaif.pipeline.tracked import comparison
from morlaif.report.comparison.labels import PRINCIPLES, flat
from morlaif.report.comparison.settings import CompareSettings
from morlaif.stages.compare import STAGE, Asked, CompareReads
from morlaif.stages.known import METHODS, NAMES
from morlaif.texts import add_row, say
from morlaif.tracking import open_tracker
from morlaif.tracking.settings import TrackingSettings
from morlaif.tracking.workspace import FILE as WORKSPACE
from morlaif.units.execute import execute
from morlaif.units.integrity import MANIFEST, damage, read_manifest
from morlaif.units.store import State, Store
from morlaif.units.unit import Unit

PAGE = "comparison.html"
MOST_VERDICTS = 8  # that a terminal lists
_UNREAD = {*NAMES} - {"evaluate", "front", "sft", *METHODS.known}  # stages whose artifacts no comparison reads
_CONFIG = {  # keys that it reads of a run's config
    "paths.store": str, "seed": int, "eval.judge": dict, "eval.confidence": float, "eval.resamples": int,
}  # fmt: skip


# Columns of the leaderboard that a terminal has room for, and whether it has for their intervals.
_TOLD = {"arm": True, "rank": True, "seeds": True, "win rate over SFT": True, "length-controlled": False,
         "KL, nats": False, "tokens": False}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A run folder, as far as it can be read."""

    folder: Path
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    folders: Mapping[str, Path]  # its finished units in whichever store holds them: <stage>/<digest> -> folder
    human: Mapping[str, Any] | None = None  # the raters' answers
    principles: Mapping[str, list[str]] = field(default_factory=dict)  # that its evaluation read: what each covers
    policies: Sequence[str] = ()  # the units that made those that it evaluated
    damaged: str = ""  # what of it cannot be read

    @property
    def units(self) -> dict[str, str]:
        return {unit["name"]: unit["digest"] for unit in self.record["units"]}

    def folder_of(self, unit: str) -> Path | None:
        """Where a finished unit is, by its name."""
        return self.folders.get(f"{unit.partition('/')[0]}/{self.units.get(unit)}")

    @property
    def evaluated(self) -> bool:
        """Whether a comparison can read it: it is evaluated, with each policy's responses, and its curves are there."""
        if self.damaged:
            return False
        evaluate = self.folders.get(f"evaluate/{self.units.get('evaluate')}")
        units = [f"{name.partition('/')[0]}/{self.units.get(name)}" for name in self.policies]
        curves = [unit in self.folders for unit in units]
        return evaluate is not None and all(curves)

    @property
    def status(self) -> str:
        return self.record["status"]

    @property
    def why(self) -> str:
        """Why a comparison leaves it out."""
        if self.evaluated:
            return failure(self.record)
        if self.status not in ("succeeded", "damaged"):
            return failure(self.record) or f"it is {self.status}; the command that made it goes on with it"
        if self.damaged or "evaluate" in self.units:
            return self.damaged or "it has no evaluation in a store that can be reached"
        return "it made no evaluation; run it with stages=[evaluate]"


def find(patterns: Sequence[str], runs: Path, key: str = "compare.runs") -> list[Path]:
    """Run folders by glob or name, the name also without the folder of all runs; `key` is what gave the patterns.

    Raises:
        UserError: a pattern matches no run.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        tried = [Path(pattern).expanduser(), runs / pattern]
        matches = [Path(match).absolute() for path in tried for match in _matches(str(path))]
        folders = [match for match in matches if os.path.lexists(match / RUN)]
        if not folders:
            raise UserError(f"{key}: no run folder matches '{pattern}'.{_hint(pattern, matches, runs)}")
        found |= dict.fromkeys(folders)
    return list(found)


def _matches(pattern: str) -> list[str]:
    try:
        return sorted(glob(pattern))
    except (OSError, ValueError, re.error):  # too long, a null byte, a range that is none
        return []


def _hint(pattern: str, matches: Sequence[Path], runs: Path) -> str:
    files = [match for match in matches if not match.is_dir()]
    if files:
        inside = next((file.parent.name for file in files if os.path.lexists(file.parent / RUN)), None)
        return f" '{files[0]}' is a file: name the run's folder" + (f", '{inside}'." if inside else ".")
    if matches:
        return f" '{matches[0]}' is a folder without {RUN}, so no run's."
    names = [path.parent.name for path in runs.glob(f"*/{RUN}")]
    here = Path(pattern).expanduser().absolute().parent
    return suggest(Path(pattern).name, names) or f" Looked in '{here}' and in '{runs}', which has {len(names)} runs."


def read(folder: Path, store: Store) -> RunFolder | None:
    """None where there is no run. `why` names what cannot be read: one bad run does not spoil a page."""
    record: Mapping[str, Any] | None = None
    try:
        record = read_run(folder)
        if record is None:
            return None
        config = read_json(folder / "config.json", "the config of a run", of=dict, failure=Damaged)
        _check_config(folder / "config.json", config)
        human = None
        if os.path.lexists(folder / HUMAN):
            human = read_json(folder / HUMAN, "what raters answered about a run", of=dict, failure=Damaged)
        folders = _folders(record, [Path(config["paths"]["store"]), store.root])
        evaluate = next((unit for unit in record["units"] if unit["name"] == "evaluate"), None)
        place = evaluate and folders.get(f"evaluate/{evaluate['digest']}")
        return RunFolder(folder, record, config, folders, human, *(_evaluated(place) if place else ()))
    except (UserError, MachineError) as error:
        record = record or {"status": "damaged", "seconds": 0.0, "units": []}
        return RunFolder(folder, record, {}, {}, damaged=str(error))


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    for key, kind in _CONFIG.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind):
            raise Damaged(f"{path}: no {key} as this version writes it: damaged, or written by another version")


def _folders(record: Mapping[str, Any], roots: Sequence[Path]) -> dict[str, Path]:
    """Where the finished units of a run are.

    Raises:
        Damaged: one that a comparison reads is not as it was written.
    """
    folders = {}
    for unit in record["units"]:
        name = f"{unit['stage']}/{unit['digest']}"
        places = [root / name for root in dict.fromkeys(roots) if (root / name / MANIFEST).is_file()]
        if places and (unit["stage"] not in _UNREAD or unit["name"] == "pm/gold"):
            wrong = {place: damage(place) for place in places}
            places = [place for place in places if wrong[place] is None]
            if not places:
                place, line = next(iter(wrong.items()))
                raise Damaged(f"{place}: {line}; run it again, and it is built anew")
        if places:
            folders[name] = places[0]
    return folders


def _evaluated(evaluate: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The principles that an evaluation read, with what each covers in a world of known truth; the policies' units.

    Raises:
        Damaged: the evaluation is of a version whose results have another layout.
    """
    manifest = read_manifest(evaluate)
    if isinstance(version := manifest.get("version"), int) and version < LAYOUT:
        raise Damaged(f"evaluated by version {version} of the stage 'evaluate', whose results have another layout; "
                      "the run's command evaluates it anew")  # fmt: skip
    try:
        reads = manifest["reads"]
        covers = {principle["name"]: principle["covers"] for principle in reads["principles"]}
        return covers, [f"{arm['method']}/{arm['name']}" for arm in reads["arms"]]
    except (KeyError, TypeError):
        raise Damaged(f"{evaluate / MANIFEST}: names no principles or arms: written by another version") from None


def unit_of(runs: Sequence[RunFolder], settings: CompareSettings) -> Unit:
    """The unit of work that compares `runs`: its digest follows from the units that it reads."""
    evaluation = runs[0].config["eval"]
    sizes = {run.config.get("pm", {}).get("base") for run in runs}
    reads = CompareReads(
        runs=with_bases_named([_reads(run) | (_pm_cost(run) if len(sizes) > 1 else {}) for run in runs]),
        judges=[_asked(run, settings) for run in runs],
        prompts=settings.prompts,
        confidence=evaluation["confidence"],
        resamples=evaluation["resamples"],
        seed=runs[0].config["seed"],
    )
    return Unit(STAGE, STAGE.name, reads)


def _reads(run: RunFolder) -> dict[str, Any]:
    return {
        "name": run.folder.name,
        "config": {PRINCIPLES: len(run.principles), **flat(run.config)},
        "units": run.units,
        "human": run.human,
    }


def _pm_cost(run: RunFolder) -> dict[str, Any]:
    """What its preference models took, of runs that have them on different bases."""
    digests = {name: digest for name, digest in run.units.items() if name not in ("pm/gold", "backbone/gold")}

    def found(stage: str) -> list[Path]:
        keys = dict.fromkeys(f"{stage}/{own}" for name, own in digests.items() if name.startswith(f"{stage}/"))
        return [run.folders[key] for key in keys if key in run.folders]

    return {"pm": pm_cost(models, found("backbone"))} if (models := found("pm")) else {}


def _asked(run: RunFolder, settings: CompareSettings) -> Asked:
    """The judge of a run, and why it judges no others."""
    own = "only what each run compared itself is shown."
    if not _has_responses(run):
        return Asked(judge=None, why_not=f"A run kept no responses to judge: {own}")
    try:
        judge: Any = TypeAdapter(JudgeSettings).validate_python(run.config["eval"]["judge"])
    except ValidationError:
        return Asked(judge=None, why_not=f"The judge of these runs is not known to this version: {own}")
    if costs(judge) and not settings.spend:
        why = f"The judge costs money: {own} compare.spend=true asks for the rest."
        return Asked(judge=None, why_not=why)
    return Asked(judge=judge, why_not="")


def costs(judge: Any) -> bool:
    """Whether a judge's verdicts cost money."""
    price = getattr(getattr(judge, "engine", None), "price", None)
    return price is not None and any(value for value in price.model_dump().values() if isinstance(value, int | float))


def _has_responses(run: RunFolder) -> bool:
    return (run.folders[f"evaluate/{run.units['evaluate']}"] / "responses.jsonl").is_file()


def compare(
    runs: Sequence[RunFolder | None],
    names: Sequence[str],
    overrides: Sequence[str],
    settings: CompareSettings,
    out: Path,
    store: Store,
    hardware: HardwareSettings,
    command: str,
    console: Console,
) -> Path | None:
    """Compare those of `runs` that can be, and write the page with its files into `out`; None if none can be."""
    usable = [run for run in runs if run is not None and run.evaluated]
    if not usable:
        return None
    started = time.monotonic()
    try:
        unit = unit_of(usable, settings)
        state = build_of_runs(unit, usable, store, hardware, console)
    except (UserError, MachineError):
        raise
    except Exception:
        from morlaif.stages.work.compare import trouble

        odd = {run.folder: line for run in usable if (line := trouble(_reads(run), run.folders))}
        if not odd or len(odd) == len(usable):
            raise
        why = "evaluated by another version? This one cannot show it"
        runs = [
            replace(run, damaged=f"{why} ({odd[run.folder]})") if run and run.folder in odd else run for run in runs
        ]
        usable = [run for run in runs if run is not None and run.evaluated]
        unit = unit_of(usable, settings)
        state = build_of_runs(unit, usable, store, hardware, console)
    out.mkdir(parents=True, exist_ok=True)
    stored = store.folder(unit)
    for part in ("figures", "data"):
        shutil.rmtree(out / part, ignore_errors=True)
        shutil.copytree(stored / part, out / part)
    from morlaif.report.comparison.page import add_jobs

    jobs = [_job(run, name, typed, out) for run, name, typed in zip(runs, names, overrides, strict=True)]
    write_whole(out / PAGE, add_jobs((stored / PAGE).read_text(encoding="utf-8"), jobs, command))
    numbers = read_json(stored / "comparison.json", "a comparison's numbers", of=dict, failure=Damaged)
    write_whole(out / "comparison.json", json.dumps({"jobs": jobs, **numbers}, indent=1, ensure_ascii=False))
    _say_standing(numbers, console)
    say(console, f"comparison: {out / PAGE}  ({state}, {time.monotonic() - started:.1f} s)")
    return out / PAGE


def _say_standing(numbers: Mapping[str, Any], console: Console) -> None:
    """The leaderboard, the clear differences, and what the intervals are over."""
    heads, rows = numbers["leaderboard"]["heads"], numbers["leaderboard"]["rows"]
    if rows:
        shown = [k for k, head in enumerate(heads) if head in _TOLD]
        table = plain_table(*(heads[k] for k in shown))
        table.columns[0].overflow = "fold"
        for row in rows:
            add_row(table, *(row[k] if _TOLD[heads[k]] else row[k].partition(" [")[0] for k in shown))
        console.print()
        console.print(table)
        console.print()
    say(console, numbers["summary"])
    lines = numbers["verdicts"]
    for line in lines[:MOST_VERDICTS]:
        say(console, f"  {line}")
    if len(lines) > MOST_VERDICTS:
        say(console, f"  and {len(lines) - MOST_VERDICTS} more on the page")
    if note := numbers["aggregate"]["note"]:
        say(console, f"{note[0].upper()}{note[1:]}.")


def build_of_runs(
    unit: Unit, runs: Sequence[RunFolder], store: Store, hardware: HardwareSettings, console: Console
) -> State:
    """Have in the store a unit that reads finished runs; the caller says what came of it."""
    inputs = {name: folder for run in runs for name, folder in run.folders.items()}
    with Display(console) as display:
        display.begin(unit)
        state = execute(
            unit, store, hardware,
            on_progress=lambda step, total, metrics: display.progress(unit, step, total, metrics),
            tell=lambda _, kind, line: display.say(f"{unit.name}: {line}{' builds it; waiting' * (kind == 'waiting')}"),
            build=lambda unit, job: unit.stage.build(replace(job, needs=inputs)),
        )  # fmt: skip
        display.end(unit, "cached", 0.0)
    return state


def tell(settings: TrackingSettings, out: Path, count: int, console: Console) -> None:
    """A tracker's run of its own, in the sweep's group: strengths as summary, its tables, the figures."""
    file = out / "comparison.json"
    found = read_json(file, "a comparison's numbers", of=dict, failure=Damaged)
    told = comparison(found, file)
    tracker = open_tracker(
        settings, out,
        name=f"comparison of {count} runs", group=out.name, run_id=f"compare-{out.name}", tags=["comparison"],
        config={"runs": {run["name"]: run["differs"] for run in found["runs"]}, "varied": told.keys},
        warn=partial(say, console), job_type="compare",
    )  # fmt: skip
    tracker.summary(told.headline)
    for name, table in told.tables.items():
        tracker.table(name, table.columns, table.rows)
    tracker.images({path.stem: path for path in sorted((out / "figures").glob("*.png"))})
    tracker.artifact(f"comparison-{out.name}", "comparison", out, {"runs": count})
    tracker.close()
    shown = {"group": out.name, "keys": told.keys, "arms": told.arms, "principles": told.principles}
    write_whole(out / WORKSPACE, json.dumps(shown, indent=1))
    if settings.kind == "wandb":
        say(console, f"workspace: python -m morlaif.tracking.workspace --entity <you> --sweep {out}")


def _job(run: RunFolder | None, name: str, overrides: str, out: Path) -> dict[str, Any]:
    if run is None:
        return {"run": name, "overrides": overrides, "status": "not run", "seconds": "", "why": "", "link": None}
    report = run.folder / "report.html"
    link = f"../../{name}/report.html" if report.is_file() and run.folder.parent == out.parent.parent else None
    return {
        "run": name, "overrides": overrides, "status": run.status, "seconds": f"{run.record['seconds']:.1f}",
        "why": run.why, "link": link,
    }  # fmt: skip
