"""The form for raters: one HTML file that holds all it shows, works offline, and names no policy."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from morlaif.evaluation.human.items import Study


def render(study: Study, question: str, instructions: str) -> str:
    """The form of `study`; `instructions` have an empty line between paragraphs."""
    environment = Environment(
        loader=PackageLoader("morlaif.evaluation.human", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True,
    )  # fmt: skip
    here = resources.files("morlaif.evaluation.human")
    return environment.get_template("form.html.j2").render(
        css=here.joinpath("form.css").read_text(encoding="utf-8"),
        js=here.joinpath("form.js").read_text(encoding="utf-8"),
        data=_inert({"form": study.form, "seed": study.seed, "items": study.shown()}),
        count=len(study.items),
        question=question,
        instructions=[paragraph for part in re.split(r"\n\s*\n|\n", instructions) if (paragraph := part.strip())],
    )


def _inert(value: Any) -> str:
    """JSON that can stand inside a <script>: no text of a response can end the element or open another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
