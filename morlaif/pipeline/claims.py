"""Test claims on finished runs: what each arm left at each seed, judged policies, verdicts, and the table of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from morlaif.claims import table as tables
from morlaif.claims.cells import Cell
from morlaif.claims.decide import POWER
from morlaif.claims.estimators import Arm, Seen, Two
from morlaif.claims.page import page
from morlaif.claims.settings import ClaimsSettings
from morlaif.claims.spec import Known, at_level
from morlaif.claims.table import Row, Values
from morlaif.errors import MachineError, UserError
from morlaif.hardware import HardwareSettings
from morlaif.pipeline.compare import RunFolder, read
from morlaif.pipeline.contests import entrant, judged
from morlaif.pipeline.display import plain_table
from morlaif.pipeline.record import write_whole
from morlaif.report import people
from morlaif.stages.contests import Entrant
from morlaif.statistics import Array
from morlaif.texts import add_row, say
from morlaif.tracking import open_tracker
from morlaif.tracking.settings import TrackingSettings
from morlaif.units.store import Store

PAGE, NUMBERS = "claims.html", "claims.json"
STYLES = {"supported": "green", "contradicted": "bold red", "undecided": "yellow"}
Contest = tuple[str, int, Two]  # claim, seed, arms


class Gathered:
    """Claims with the runs of their arms, as far as these have finished."""

    def __init__(self, known: Sequence[Known], runs: Mapping[Cell, str], folder: Path, store: Store) -> None:
        self.known, self.store = known, store
        folders = {name: read(folder / name, store) for name in dict.fromkeys(runs.values())}
        self.finished = {name: run for name, run in folders.items() if run and run.status == "succeeded"}
        self.runs: dict[str, dict[int, dict[str, str]]] = {one.name: {} for one in known}  # by seed and arm
        for cell, name in runs.items():
            self.runs[cell.claim].setdefault(cell.seed, {})[cell.arm] = name

    def seeds(self, known: Known) -> list[int]:
        """Those at which all arms have finished."""
        return [s for s, arms in self.runs[known.name].items() if all(name in self.finished for name in arms.values())]

    def missing(self, known: Known) -> list[int]:
        return [seed for seed in self.runs[known.name] if seed not in self.seeds(known)]

    def run(self, known: Known, seed: int, arm: str) -> RunFolder:
        return self.finished[self.runs[known.name][seed][arm]]

    def contests(self) -> list[Contest]:
        return [
            (known.name, seed, two)
            for known in self.known
            for seed in self.seeds(known)
            for two in _contests(known)
        ]  # fmt: skip

    def entrant(self, known: Known, seed: int, arm: str) -> Entrant:
        run = self.run(known, seed, arm)
        return entrant(run, policy_of(run))

    def seen(self, known: Known, seed: int) -> dict[str, Arm]:
        return {
            arm: Arm(policy_of(run), _folders(run))
            for arm, run in ((arm, self.run(known, seed, arm)) for arm in self.runs[known.name][seed])
        }

    def values(self, known: Known, outcomes: Mapping[Contest, Array]) -> Values:
        """The parts of its estimate at each seed.

        Raises:
            UserError, MachineError: what it reads is not there.
        """
        found = {}
        for seed in self.seeds(known):
            arms = self.seen(known, seed)
            own = {two: outcomes[known.name, seed, two] for two in _contests(known)}
            if not known.claim.levels:
                found[seed] = known.estimator(Seen(arms, own))
                continue
            by_level = {}
            for level in known.claim.levels:
                named = {arm: at_level(arm, level) for arm in known.claim.arms}
                judged = {
                    (a, b): own[at_level(a, level), at_level(b, level)] for a, b in known.estimator.contests()
                }  # fmt: skip
                by_level[level] = known.estimator(Seen({arm: arms[full] for arm, full in named.items()}, judged))
            found[seed] = known.estimator.over_levels(by_level)
        return found

    def people(self, known: Known) -> list[str]:
        """What raters said of the policies of its arms, and how far the judge agrees with them: a line each."""
        found = []
        for seed in self.seeds(known):
            for arm, name in self.runs[known.name][seed].items():
                for pair, own in ((self.finished[name].human or {}).get("comparisons") or {}).items():
                    found.append(f"{arm}, seed {seed}: {people.sentence(pair, own)}")
        return list(dict.fromkeys(found))

    def kl(self, known: Known) -> dict[str, float]:
        """Of each arm that trained a policy: nats from the SFT model, mean over seeds."""
        found: dict[str, list[float]] = {}
        for seed in self.seeds(known):
            for arm, one in self.seen(known, seed).items():
                if "evaluate" in one.folders and (kl := one.read("evaluate/results.json").get("kl")) is not None:
                    found.setdefault(arm, []).append(kl)
        return {arm: float(np.mean(values)) for arm, values in found.items()}


def policy_of(run: RunFolder) -> str:
    """What a run calls its first arm."""
    return str(run.config["arms"]["select"][0])


def _contests(known: Known) -> list[Two]:
    """The arms that are judged against one another, at each value of what is swept."""
    pairs = known.estimator.contests()
    levels = known.claim.levels
    return [(at_level(a, level), at_level(b, level)) for level in levels for a, b in pairs] if levels else [*pairs]


def _folders(run: RunFolder) -> dict[str, Path]:
    return {
        unit["name"]: folder
        for unit in run.record["units"]
        if (folder := run.folders.get(f"{unit['stage']}/{unit['digest']}")) is not None
    }


def judge(gathered: Gathered, hardware: HardwareSettings, console: Console) -> dict[Contest, Array]:
    """The outcomes of all contests, prompt by prompt, by the judge that the runs share.

    Raises:
        UserError: they have several judges.
    """
    wanted = gathered.contests()
    of = {known.name: known for known in gathered.known}
    pairs = [(gathered.entrant(of[c], s, a), gathered.entrant(of[c], s, b)) for c, s, (a, b) in wanted]
    runs = [gathered.run(of[c], s, arm) for c, s, two in wanted for arm in two]
    # the command has these runs judged, so it asks that judge anyway
    found = judged(pairs, runs, gathered.store, hardware, console, spend=True)
    return {
        contest: np.array(list(found[pair].values()), dtype=float) for contest, pair in zip(wanted, pairs, strict=True)
    }


def table_of(
    gathered: Gathered,
    untested: Mapping[str, str],
    settings: ClaimsSettings,
    hardware: HardwareSettings,
    console: Console,
) -> list[Row]:
    """Every claim with what is known of it; one that cannot be counted says why."""
    outcomes = judge(gathered, hardware, console)
    values: dict[str, Values] = {}
    more: dict[str, dict[str, Any]] = {name: {"untested": why} for name, why in untested.items()}
    for known in gathered.known:
        if known.name in untested:
            continue
        own: dict[str, Any] = {"missing": gathered.missing(known)}
        try:
            values[known.name] = gathered.values(known, outcomes)
            own |= {"kl": gathered.kl(known), "people": gathered.people(known)}
            if not values[known.name]:
                own["untested"] = "no seed has finished with all its arms"
        except (UserError, MachineError) as error:
            own["untested"] = str(error).splitlines()[0]
        more[known.name] = own
    return tables.rows(gathered.known, values, more, settings.alpha)


def lay_down(table: Sequence[Row], settings: ClaimsSettings, out: Path, command: str, console: Console) -> None:
    """claims.html and claims.json in `out`, and the table on the terminal."""
    out.mkdir(parents=True, exist_ok=True)
    found = {
        "command": command, "alpha": settings.alpha, "seeds": settings.seeds, "vary": list(settings.vary),
        "summary": tables.summary(table), "claims": tables.as_json(table),
    }  # fmt: skip
    write_whole(out / NUMBERS, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(out / PAGE, page(table, settings, command))
    columns = ("claim", "verdict", "estimate", "claimed", "seeds", "p, adj.", "needs")
    shown = plain_table(*columns, right=slice(4, None))
    shown.columns[0].overflow = "fold"
    for row in table:
        verdict = (row.verdict, STYLES[row.verdict]) if row.verdict else ("not tested", "dim")
        p = "" if row.adjusted is None else f"{row.adjusted:.3f}"
        seeds = str(len(row.seeds)) if row.verdict else ""
        add_row(shown, row.name, verdict, tables.interval(row.shown), row.claimed, seeds, p, tables.needed(row))
    console.print()
    console.print(shown)
    console.print()
    for row in table:
        if row.untested:
            say(console, (row.name, "bold"), f" not tested: {row.untested}")
        elif row.missing:
            say(console, (row.name, "bold"), f" without seeds {', '.join(map(str, row.missing))}, which lack an arm")
    say(console, tables.summary(table), f"; needs: the seeds that would decide with power {POWER:g}")
    say(console, f"claims: {out / PAGE}, {out / NUMBERS}")


def tell(settings: TrackingSettings, table: Sequence[Row], out: Path, console: Console) -> None:
    """A tracker's run of its own, in the sweep's group, with the table."""
    tracker = open_tracker(
        settings, out, name=f"{len(table)} claims", group=out.name, run_id=f"claims-{out.name}", tags=["claims"],
        config={"claims": {row.name: row.statement for row in table}}, warn=partial(say, console), job_type="claims",
    )  # fmt: skip
    means = {row.name: row.shown.mean for row in table if row.shown is not None}
    tracker.summary({"claim": {name: mean for name, mean in means.items() if mean is not None}})
    tracker.table("claims", list(tables.HEADS), [tables.cells(row) for row in table])
    tracker.artifact(f"claims-{out.name}", "claims", out, {"summary": tables.summary(table)})
    tracker.close()
