"""What raters said of a run: a section of its page, and the same in a few lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from morlaif.report.data import comparison
from morlaif.report.page import environment
from morlaif.report.tables import number, percent

_PEOPLE = re.compile(r"<!--people-->.*?<!--/people-->\n*", re.DOTALL)
_BEFORE = '<section id="run"'
_LINK, _OWN = '<a href="#run">', '<a href="#people">People</a>'


def add_people(html: str, human: Mapping[str, Any]) -> str:
    """The page of a run with what raters said of it (the contents of human.json), instead of what they said before.

    Pages know nothing of people when they are built, so this is no part of the stage's template.
    """
    rows = [
        {
            "name": _name(name, human), "found": found, "rate": _interval(found["intervals"]["rate"]),
            "shares": {part: _interval(found["intervals"][part]) for part in ("win", "tie", "loss")},
            "alpha": {level: _interval(one, number) for level, one in found["agreement"].items()},
        }
        for name, found in human["comparisons"].items()
    ]  # fmt: skip
    section = environment().get_template("people.html.j2").render(rows=rows, care=care(human))
    html = _PEOPLE.sub("", html)
    if _BEFORE not in html:
        raise ValueError("not a morlaif report: it has no section for the run's record")
    html = html.replace(_OWN, "").replace(_LINK, _OWN + _LINK, 1)
    return html.replace(_BEFORE, f"<!--people-->{section}<!--/people-->\n\n{_BEFORE}", 1)


def lines(human: Mapping[str, Any]) -> list[str]:
    """For the terminal."""
    said = []
    for name, found in human["comparisons"].items():
        shares = ", ".join(f"{part} {percent(found[part])}" for part in ("win", "tie", "loss"))
        rate = _interval(found["intervals"]["rate"])
        counted = f"{found['n']} prompts, {found['ratings']} ratings"
        said.append(f"{_name(name, human)}: {shares}; win rate {rate}, {counted}")
    return [*said, *care(human)]


def care(human: Mapping[str, Any]) -> list[str]:
    """How far the ratings can be trusted, a sentence each."""
    raters = human["raters"]
    kept = [rater for rater in raters if rater["kept"]]
    alpha = human["agreement"]
    said = [
        f"{len(kept)} of {len(raters)} raters kept; they failed {sum(r['failed'] for r in kept)} of "
        f"{sum(r['checks'] for r in kept)} pairs whose answer is known."
    ]
    if alpha["nominal"]["value"] is None:
        said.append("Agreement cannot be said: it takes two raters on the same pairs, and answers that differ.")
    else:
        said.append(f"Agreement, Krippendorff’s α: {_interval(alpha['nominal'], number)} nominal, "
                    f"{_interval(alpha['ordinal'], number)} ordinal, on {alpha['nominal']['n']} pairs.")  # fmt: skip
    if human["consistency"]["n"]:
        said.append(f"Shown again with sides swapped, raters said the same in {_interval(human['consistency'])} of "
                    f"{human['consistency']['n']} cases.")  # fmt: skip
    if human["side_a"]["n"]:
        said.append(f"Side A was chosen in {_interval(human['side_a'])} of the answers that chose a side.")
    seconds = human["seconds"]
    said.append(f"Time for a pair: median {seconds['median']:.0f} s, mean {seconds['mean']:.0f} s.")
    return said


def _name(key: str, human: Mapping[str, Any]) -> str:
    return comparison(key, human.get("titles", {}))


def _interval(found: Mapping[str, Any], shown: Any = percent) -> str:
    if found["value"] is None:
        return "–"
    low, high = (shown(found[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{shown(found['value'])} [{low}, {high}]"
