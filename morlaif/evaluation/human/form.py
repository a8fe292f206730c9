"""The form for raters: one HTML file that holds all it shows, works offline, and names no policy."""

from __future__ import annotations

import re
from importlib import resources

from morlaif.evaluation.human.items import Study
from morlaif.pages import environment


def render(study: Study, question: str, instructions: str) -> str:
    """The form of `study`; `instructions` have an empty line between paragraphs."""
    here = resources.files("morlaif.evaluation.human")
    return (
        environment("morlaif.evaluation.human")
        .get_template("form.html.j2")
        .render(
            css=here.joinpath("form.css").read_text(encoding="utf-8"),
            js=here.joinpath("form.js").read_text(encoding="utf-8"),
            data={"form": study.form, "seed": study.seed, "items": study.shown()},
            count=len(study.items),
            question=question,
            instructions=[paragraph for part in re.split(r"\n\s*\n|\n", instructions) if (paragraph := part.strip())],
        )
    )
