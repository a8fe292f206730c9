"""The border of pages: templates that escape all they are given, and what a page's own policy lets it run."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def environment(package: str) -> Environment:
    """The templates of `package`; `policy` and `inert` are at hand in each."""
    made = Environment(loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.globals |= {"policy": policy, "inert": inert}
    return made


def policy(scripts: Iterable[str] = (), styles: Iterable[str] = ()) -> Markup:
    """A content security policy for a <meta>: of all scripts and style sheets, those given run, known by their hash.

    Nothing is fetched: pictures are data or made by the page. Style attributes are free, since figures are made of
    them; what could leave through one, an address, may not be fetched either.
    """
    parts = {
        "default-src": ["'none'"],
        "script-src": _hashes(scripts),
        "style-src-elem": _hashes(styles),
        "style-src-attr": ["'unsafe-inline'"],
        "img-src": ["data:", "blob:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return Markup("; ".join(f"{name} {' '.join(values)}" for name, values in parts.items()))


def _hashes(texts: Iterable[str]) -> list[str]:
    made = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return [f"'sha256-{value}'" for value in made] or ["'none'"]


def inert(value: Any) -> str:
    """JSON that is safe inside a <script>: no text in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
