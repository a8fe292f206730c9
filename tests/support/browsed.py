"""Pages in a browser, with a script of the test beside the page's own."""

from __future__ import annotations

import re

from morlaif.pages import policy


def with_script(html: str, script: str) -> str:
    """The page with `script` at its end, which its policy allows as it does the page's own."""
    (allowed,) = re.findall(r"script-src (\S+)(?: \S+)*?;", policy([script]))
    html, count = re.subn(r"(script-src )('none'|'sha256-\S+')", lambda m: m[1] + m[2] + " " + allowed, html, count=1)
    assert count
    return html.replace("</body>", f"<script>{script}</script></body>")
