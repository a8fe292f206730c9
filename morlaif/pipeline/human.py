"""Ratings by people of a finished run: write the form and its key, read the answers, show them on the run's page.

    <run>/human/form.html    what raters get            <run>/human.json          their answers, as pages show them
    <run>/human/key.json     which policy is which      <run>/human/ratings.csv   each answer, unblinded
    <run>/human/answers/     what raters returned

No part of any unit: nothing of the run is built anew, whatever people say. What its judge says of the pairs that were
rated is a unit of its own.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

from rich.console import Console

from morlaif.config import Config
from morlaif.errors import Damaged, MachineError, UserError, of_system, suggest
from morlaif.evaluation.human.answers import read as read_answers
from morlaif.evaluation.human.form import render
from morlaif.evaluation.human.items import RatedPair, make_study
from morlaif.evaluation.human.key import read_key
from morlaif.evaluation.human.settings import HumanStudySettings
from morlaif.evaluation.results import SFT, ArmFacts, load_arms
from morlaif.evaluation.wins import versus
from morlaif.files import read_json_lines, read_text
from morlaif.pipeline import compare
from morlaif.pipeline.contests import entrant, judged
from morlaif.pipeline.record import HUMAN, RUN, write_whole
from morlaif.texts import say, write_csv
from morlaif.units.store import Store

FORM, KEY, ANSWERS, RATINGS = "form.html", "key.json", "answers", "ratings.csv"


def rate(config: Config, run_name: str, console: Console) -> None:
    """Export the form of a run, or import what its raters returned.

    Raises:
        UserError: there is no such run, it was not evaluated, or something of what was given is wrong.
    """
    settings = config.human
    run = _find(config, run_name)
    folder = settings.folder or run.folder / "human"
    if settings.action == "export":
        _export(run, folder, settings, console, bool(config.dry_run))
    else:
        _import(run, folder, config, console)


def _find(config: Config, run_name: str) -> compare.RunFolder:
    wanted = config.human.run
    if wanted is None and not (config.paths.runs / run_name / RUN).is_file():
        raise UserError(
            f"human.run: the run of this command, {run_name}, does not exist; name a finished one: human.run=<run>"
        )
    folders = compare.find([wanted or run_name], config.paths.runs, "human.run")
    if len(folders) > 1:
        raise UserError(f"human.run: '{wanted}' matches {len(folders)} runs; a form is about one")
    run = compare.read(folders[0], Store(config.paths.store))
    if run is not None and run.damaged:
        raise UserError(f"human.run: {run.damaged}")
    if run is None or f"evaluate/{run.units.get('evaluate')}" not in run.folders:
        raise UserError(f"human.run: {folders[0].name} has no evaluation in a store that can be reached")
    return run


# --- export ---------------------------------------------------------------------------------------------------------


def _export(run: compare.RunFolder, folder: Path, settings: HumanStudySettings, console: Console, dry: bool) -> None:
    file = run.folders[f"evaluate/{run.units['evaluate']}"] / "responses.jsonl"
    if not file.is_file():
        raise UserError(f"human=export: {run.folder.name} kept no responses; evaluate it anew with this version")
    rows = [row for _, row in read_json_lines(file, "the responses of an evaluation", failure=Damaged)]
    if not rows:
        raise UserError(f"human=export: {run.folder.name} evaluated no prompt")
    compared = _comparisons(settings.pairs, next(iter(_arms(run))), list(rows[0]["responses"]))
    study = make_study(
        rows, compared, prompts=settings.prompts, repeats=settings.repeats, checks=settings.checks, seed=settings.seed
    )
    if not study.items:
        raise UserError(f"human=export: in {run.folder.name} both policies gave the same response to every prompt")
    kinds = [item.kind for item in study.items]
    say(
        console,
        f"{len(kinds)} items: {kinds.count('pair')} pairs, {kinds.count('repeat')} of them again with their sides "
        f"swapped, {kinds.count('check')} whose answer is known",
    )
    shown = min(settings.prompts, len(rows))
    if shown < settings.prompts:
        say(console, f"human.prompts={settings.prompts}: the run evaluated {shown}; all are used")
    for name, count in study.identical.items():
        same = f"; {count} prompts got the same text twice: ties unrated" if count else ""
        say(console, f"{name}: {shown - count} pairs{same}")
    if dry:
        return
    key = {"run": run.folder.name, **study.key()}
    if (folder / KEY).exists() and read_key(folder / KEY)["form"] != key["form"]:
        raise UserError(
            f"human=export: {folder / KEY} is the key of another form, which raters may have; without it their answers "
            "say nothing. Write this one elsewhere, human.folder=<folder>, or remove that key"
        )
    form = render(study, settings.question, settings.instructions)
    with _writing(f"human.folder={folder}"):
        (folder / ANSWERS).mkdir(parents=True, exist_ok=True)
        write_whole(folder / KEY, json.dumps(key, indent=1) + "\n")
        write_whole(folder / FORM, form)
    say(console, f"for raters: {folder / FORM}")
    say(console, f"keep to yourself: {folder / KEY}")
    say(console, f"for what they return: {folder / ANSWERS}")
    elsewhere = f" human.folder={settings.folder}" if settings.folder else ""
    say(console, f"then: morlaif human=import human.run={run.folder.name}{elsewhere}")


def _arms(run: compare.RunFolder) -> dict[str, ArmFacts]:
    return load_arms(run.folders[f"evaluate/{run.units['evaluate']}"] / "details.json")


def _comparisons(pairs: Sequence[str] | None, policy: str, policies: Sequence[str]) -> list[RatedPair]:
    """The comparisons to rate, by default the run's `policy` against each other one, SFT last.

    Raises:
        UserError: a pair names no two policies of the run.
    """
    others = sorted((name for name in policies if name != policy), key=lambda name: name == SFT)
    made = []
    for name in pairs or [versus(policy, other) for other in others]:
        parts = name.split("_vs_")
        known = f" The run has {', '.join(policies)}."
        if len(parts) != 2 or parts[0] == parts[1]:
            raise UserError(f"human.pairs: '{name}' is no pair of policies, such as {versus(policy, SFT)}.{known}")
        if unknown := [part for part in parts if part not in policies]:
            raise UserError(f"human.pairs: '{name}': no policy '{unknown[0]}'.{suggest(unknown[0], policies)}{known}")
        made.append(RatedPair(name, *parts))
    return made


# --- import ---------------------------------------------------------------------------------------------------------


def _import(run: compare.RunFolder, folder: Path, config: Config, console: Console) -> None:
    settings, dry = config.human, bool(config.dry_run)
    from morlaif.evaluation.human.summary import raters_of, summarise, unblinded

    if not (folder / KEY).exists():
        raise UserError(f"human=import: no {folder / KEY}; export a form first, or say where its key is: human.folder")
    key = read_key(folder / KEY)
    if key["run"] != run.folder.name:
        raise UserError(f"human.run: {folder / KEY} is of the run {key['run']}, not of {run.folder.name}")
    files = _answer_files(settings.answers, folder / ANSWERS)
    ratings = read_answers(_texts(files), key)
    if not ratings:
        raise UserError(f"human=import: the {len(files)} files hold no answer")
    raters = raters_of(ratings, key, settings.max_failed)
    for rater in raters:
        say(
            console,
            f"{rater.name}: {rater.answers} of {len(key['items'])} answered, {rater.failed} of {rater.checks} known "
            f"pairs failed, {rater.seconds:.0f} s a pair",
            ("" if rater.kept else "  left out", "bold"),
        )
    if not any(rater.kept for rater in raters):
        raise UserError(f"human=import: every rater failed more than human.max_failed={settings.max_failed} of the "
                        "known pairs; nothing was imported")  # fmt: skip
    evaluation = run.config["eval"]
    how = {name: evaluation[name] for name in ("resamples", "confidence")}
    found = summarise(ratings, raters, key, **how, judged=None if dry else _judged(run, key, config, console))
    if not found["comparisons"]:
        raise UserError("human=import: no pair was answered by a rater who is kept; nothing was imported")
    from morlaif.report.data import titles
    from morlaif.report.people import lines

    found["titles"] = titles(_arms(run))
    for line in lines(found):
        say(console, line)
    page = run.folder / "report.html"
    shown = _shown(page, found) if page.exists() else None
    if dry:
        return
    with _writing("human=import"):
        write_whole(folder / RATINGS, _csv(unblinded(ratings, raters, key)))
        if shown is not None:
            write_whole(page, shown)
        write_whole(run.folder / HUMAN, json.dumps(found, indent=1, allow_nan=False) + "\n")
    say(console, f"written: {run.folder / HUMAN}; each answer: {folder / RATINGS}")
    if shown is not None:
        say(console, f"shown on {page}")


def _judged(
    run: compare.RunFolder, key: Mapping[str, Any], config: Config, console: Console
) -> dict[str, Mapping[str, float | None]] | None:
    """What the run's judge says of the comparisons that were rated, by prompt; None where it cannot be asked."""
    of = {name: (entrant(run, own["first"]), entrant(run, own["second"])) for name, own in key["comparisons"].items()}
    try:
        store, spend = Store(config.paths.store), config.compare.spend
        found = judged(list(of.values()), [run], store, config.hardware, console, spend=spend)
    except (UserError, MachineError) as error:
        say(console, f"how far the judge agrees with the raters is not known: {error}")
        return None
    return {name: found[pair] for name, pair in of.items()}


def _shown(page: Path, found: dict[str, Any]) -> str:
    """The run's page with the ratings on it."""
    from morlaif.report.people import add_people

    try:
        return add_people(read_text(page, "the run's page"), found)
    except ValueError:
        raise UserError(f"{page}: is not the page that a run leaves; start the run's command again, which writes it "
                        "anew, then import") from None  # fmt: skip


@contextmanager
def _writing(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise of_system(error, f"{where}: {error.filename2 or error.filename or ''}") from None


def _answer_files(patterns: Sequence[str] | None, folder: Path) -> list[Path]:
    """Raises UserError where a pattern, or the folder, has none."""
    found: dict[Path, None] = {}
    for pattern in patterns or [str(folder)]:
        given = Path(os.path.expanduser(pattern))
        paths = [given / "*"] if given.is_dir() else [given]
        matches = [Path(match) for path in paths for match in sorted(glob(str(path)))]
        matches = [match for match in matches if match.suffix.lower() in (".json", ".csv")]
        if not matches:
            raise UserError(f"human.answers: no .json or .csv file of a rater in '{pattern}'")
        found |= dict.fromkeys(matches)
    return list(found)


def _texts(files: Sequence[Path]) -> dict[str, str]:
    """Their texts by their paths. Raises UserError with a line for each that cannot be read."""
    texts, mistakes = {}, []
    for file in files:
        try:
            texts[str(file)] = read_text(file, "answers as the form saved them")
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join([*mistakes, "nothing was imported; correct or remove these files"]))
    return texts


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    write_csv(text, list(rows[0]), [list(row.values()) for row in rows])
    return text.getvalue()
