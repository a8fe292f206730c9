"""Stage `report`: the page, the figures for papers, and every number on the page as JSON."""

from __future__ import annotations

import json
from typing import Any

from morlaif.report.data import load
from morlaif.report.figures import FIGURES
from morlaif.report.page import render
from morlaif.report.style import save, styled
from morlaif.report.tables import numbers, spoken
from morlaif.stages.report import ReportJob


def build(job: ReportJob) -> dict[str, Any]:
    run = load(job.needs, job.reads.config)
    folder, svgs = job.out / "figures", {}
    folder.mkdir()
    for step, (name, draw) in enumerate(FIGURES.items()):
        with styled():
            if (drawn := draw(run)) is not None:
                svgs[name] = save(drawn, folder / f"{name}.png", name, spoken(run, name))
        job.progress(step + 1, len(FIGURES))
    html = render(run, svgs)
    (job.out / "report.html").write_text(html, encoding="utf-8")
    (job.out / "numbers.json").write_text(json.dumps(numbers(run), indent=2, allow_nan=False) + "\n")
    return {"bytes": len(html.encode())}
