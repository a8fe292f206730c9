"""How raters judged a run: a section of its page, and the same in a few lines."""

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
    """The page of a run with the raters' answers (the contents of human.json), in place of earlier ones.

    Pages know nothing of people when they are built, so this is no part of the stage's template.
    """
    rows = [
        {
            "name": _name(name, human), "found": found, "rate": _interval(found["intervals"]["rate"]),
            "shares": {part: _interval(found["intervals"][part]) for part in ("win", "tie", "loss")},
            "judge": by_judge(found),
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
    return [
        *(sentence(_name(name, human), found) for name, found in human["comparisons"].items()),
        *care(human),
    ]


def sentence(name: str, found: Mapping[str, Any]) -> str:
    """One comparison, and how far the run's judge agrees with the raters."""
    shares = ", ".join(f"{part} {percent(found[part])}" for part in ("win", "tie", "loss"))
    rate = _interval(found["intervals"]["rate"])
    counted = f"{found['n']} prompts, {found['ratings']} ratings"
    agreed = f"; {by_judge(found)}" if by_judge(found) else ""
    return f"{name}: {shares}; win rate {rate}, {counted}{agreed}"


def by_judge(found: Mapping[str, Any]) -> str:
    """How far the run's judge agrees with the raters; empty where that is not known."""
    judge = found.get("judge")
    if not judge or judge["value"] is None:
        return ""
    beyond = f", κ {_interval(judge['kappa'], number)}" if judge["kappa"]["value"] is not None else ""
    return f"the judge agrees with them on {_interval(judge)} of {judge['n']}{beyond}"


def care(human: Mapping[str, Any]) -> list[str]:
    """How far the ratings can be trusted, a sentence each."""
    raters = human["raters"]
    kept = [rater for rater in raters if rater["kept"]]
    alpha = human["agreement"]
    sentences = [
        f"{len(kept)} of {len(raters)} raters kept; they failed {sum(r['failed'] for r in kept)} of "
        f"{sum(r['checks'] for r in kept)} pairs whose answer is known."
    ]
    if alpha["nominal"]["value"] is None:
        sentences.append("Agreement is unknown: it takes two raters on the same pairs, and answers that differ.")
    else:
        nominal, ordinal = (_interval(alpha[level], number) for level in ("nominal", "ordinal"))
        pairs = alpha["nominal"]["n"]
        sentences.append(f"Agreement, Krippendorff’s α: {nominal} nominal, {ordinal} ordinal, on {pairs} pairs.")
    if human["consistency"]["n"]:
        same, cases = _interval(human["consistency"]), human["consistency"]["n"]
        sentences.append(f"Shown again with sides swapped, raters answered the same in {same} of {cases} cases.")
    if human["side_a"]["n"]:
        sentences.append(f"Side A was chosen in {_interval(human['side_a'])} of the answers that chose a side.")
    seconds = human["seconds"]
    sentences.append(f"Time for a pair: median {seconds['median']:.0f} s, mean {seconds['mean']:.0f} s.")
    return sentences


def _name(key: str, human: Mapping[str, Any]) -> str:
    return comparison(key, human.get("titles", {}))


def _interval(found: Mapping[str, Any], shown: Any = percent) -> str:
    if found["value"] is None:
        return "–"
    low, high = (shown(found[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{shown(found['value'])} [{low}, {high}]"
