"""The page: one HTML file that holds everything it shows and asks the network for nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from morlaif import pages
from morlaif.report import endings, labels, tables
from morlaif.report.data import RunData, words
from morlaif.report.section import Section

_RUN = re.compile(r"<!--run-->.*?<!--/run-->", re.DOTALL)


def environment() -> Environment:
    made = pages.environment("morlaif.report")
    made.filters["words"] = words
    made.globals |= {"number": tables.number, "percent": tables.percent}
    return made


def render(run: RunData, sections: Sequence[Section], svgs: Mapping[str, str]) -> str:
    """The page of `run` with its figures `svgs` by name; the run's own record is left open for `add_run`."""
    templates = environment()

    def body(section: Section) -> Markup:
        made = templates.get_template(section.template)
        return Markup(made.render(section=section, svgs=svgs, **section.context))

    return templates.get_template("page.html.j2").render(
        css=resources.files("morlaif.report").joinpath("page.css").read_text(encoding="utf-8"),
        title=tables.title(run),
        subtitle=tables.subtitle(run),
        warnings=[
            *labels.warnings(run.details),
            *endings.warnings(run.details, run.curves, run.config.get("model", {}).get("min_ended", endings.MIN_ENDED)),
        ],
        sections=sections,
        body=body,
    )


def add_run(html: str, run: Mapping[str, Any]) -> str:
    """The stored page with the record of a run (the contents of its run.json) in its section "Run".

    Replaces an earlier record. Reads status, command, git, versions, seed, started, seconds and units; whatever is
    missing is left out. Raises ValueError for a page without that section.
    """
    units = [_unit(unit) for unit in run.get("units") or ()]
    filled = (
        environment()
        .get_template("run.html.j2")
        .render(
            run={"status": run.get("status")},
            units=units,
            summary=_summary(run.get("units") or ()),
            facts=_facts(run),
            reproduce=_reproduce(run),
        )
    )
    page, count = _RUN.subn(lambda _: f"<!--run-->{filled}<!--/run-->", html, count=1)
    if not count:
        raise ValueError("not a morlaif report: it has no section for the run's record")
    return page


def _unit(unit: Mapping[str, Any]) -> dict[str, Any]:
    seconds = unit.get("seconds")
    return {
        "stage": unit.get("stage", ""),
        "name": unit.get("name", ""),
        "digest": unit.get("digest", ""),
        "state": unit.get("state", ""),
        "seconds": "" if seconds is None else f"{seconds:.1f}",
    }


def _summary(units: Any) -> str:
    states = Counter(unit.get("state", "") for unit in units)
    seconds = sum(unit.get("seconds") or 0 for unit in units if unit.get("state") == "built")
    parts = [f"{states[state]} {words(state)}" for state in ("built", "cached", "failed", "not_run") if states[state]]
    return f"{sum(states.values())} units: {', '.join(parts) or 'none'} · {seconds:.0f} s of building"


def _commit(run: Mapping[str, Any]) -> str:
    git = run.get("git") or {}
    return git.get("commit", "")


def _reproduce(run: Mapping[str, Any]) -> str:
    """Shell lines that give the same digests, so the same numbers."""
    commit = _commit(run)
    lines = [f"git checkout {commit}"] if commit else []
    lines.append(run.get("command") or "morlaif")
    return "\n".join(lines)


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    commit = _commit(run) + (" with local changes" if (run.get("git") or {}).get("dirty") else "")
    seed = run.get("seed")
    facts = [
        ("Commit", commit),
        ("Seed", "" if seed is None else str(seed)),
        ("Started", run.get("started") or ""),
        ("Wall time", f"{run['seconds']:.0f} s" if run.get("seconds") else ""),
    ]
    facts += [(words(name), str(version)) for name, version in (run.get("versions") or {}).items()]
    return [(name, value) for name, value in facts if value]
