"""Stage `report`: the page, the figures for papers, and every number on the page as JSON."""

from __future__ import annotations

import json
from typing import Any

from morlaif.evaluation import results
from morlaif.evaluation.fronts import FRONT
from morlaif.report.data import load
from morlaif.report.page import render
from morlaif.report.section import make_sections
from morlaif.report.settings import OURS
from morlaif.report.style import save, styled
from morlaif.report.tables import numbers
from morlaif.stages.report import ReportJob


def build(job: ReportJob) -> dict[str, Any]:
    run = load(job.needs, job.reads.config)
    chosen = job.reads.report.sections if job.reads.report else OURS
    sections = make_sections(chosen, run)
    drawings = [drawing for section in sections for drawing in section.drawings]
    folder, svgs = job.out / "figures", {}
    folder.mkdir()
    for step, drawing in enumerate(drawings, 1):
        with styled():
            if (drawn := drawing.draw(run)) is not None:
                svgs[drawing.name] = save(drawn, folder / f"{drawing.name}.png", drawing.name, drawing.spoken)
        job.progress(step, len(drawings))
    html = render(run, sections, svgs)
    (job.out / "report.html").write_text(html, encoding="utf-8")
    (job.out / "numbers.json").write_text(json.dumps(numbers(run), indent=2, allow_nan=False) + "\n")
    if run.fronts is not None:
        results.save(run.fronts, job.out / FRONT)
    return {"bytes": len(html.encode())}
