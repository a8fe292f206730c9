"""What people reward, other things equal: the weights of the human label on the preference models, put in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from morlaif.errors import UserError
from morlaif.evaluation.pairs import ScoredPairs
from morlaif.evaluation.results import RegressionFound, RegressionRow
from morlaif.scalarize.weights import regress

FLATTERY = "sycophancy"  # its model scores higher what flatters less: a negative weight says that people reward it


def on_held_out(human: ScoredPairs, significance: float) -> dict[str, Any] | None:
    """The regression on the held-out pairs with human labels; `problem` says why there is none. None without labels."""
    known = ~np.isnan(human.human)
    columns = [k for k, name in enumerate(human.names) if name not in (*human.whole, *human.own)]
    if not known.any() or not columns:
        return None
    try:
        names = [human.names[k] for k in columns]
        return regress(human.gap[known][:, columns], human.human[known], names, significance).as_dict()
    except UserError as error:
        return {"problem": str(error)}


def discussed(fit: Mapping[str, Any], source: str, significance: float) -> RegressionFound:
    """The fit with its signs, and sentences about them."""
    if "problem" in fit:
        return RegressionFound(source, fit["problem"])
    rows = [
        RegressionRow(
            name,
            standardized=fit["standardized"][k],
            low=_standardized(fit, k, "low"),
            high=_standardized(fit, k, "high"),
            p_value=fit["p_value"][k],
            sign=_sign(fit["standardized"][k], fit["p_value"][k], significance),
        )
        for k, name in enumerate(fit["names"])
    ]
    return RegressionFound(source, None, fit["pairs"], rows, _sentences(rows, fit["pairs"]))


def _standardized(fit: Mapping[str, Any], k: int, bound: str) -> float:
    """A bound of the raw coefficient in the unit of the standardised one."""
    raw, found = fit["raw"][k], float(fit[bound][k])
    return found * float(fit["standardized"][k]) / raw if raw else found


def _sign(coefficient: float, p_value: float, significance: float) -> str:
    if p_value >= significance:
        return "unclear"
    return "positive" if coefficient > 0 else "negative"


def _sentences(rows: Sequence[RegressionRow], pairs: int) -> list[str]:
    clear = {sign: [row.name for row in rows if row.sign == sign] for sign in ("positive", "negative", "unclear")}
    sentences = [f"On {pairs} human-labelled pairs, other principles held equal:"]
    if clear["positive"]:
        sentences.append(f"people prefer responses that score higher on {_list(clear['positive'])}.")
    if clear["negative"]:
        sentences.append(f"people prefer responses that score lower on {_list(clear['negative'])}.")
    if clear["unclear"]:
        sentences.append(f"No clear effect of {_list(clear['unclear'])}.")
    for row in rows:
        if row.name == FLATTERY:
            sentences.append(_flattery(row))
    return sentences


def _flattery(row: RegressionRow) -> str:
    meaning = {
        "negative": "people reward flattery, so a weight learned from them pays for sycophancy; "
        "weights=zero_sycophancy leaves it out",
        "positive": "people mark flattery down, so a weight learned from them works against sycophancy",
        "unclear": "these pairs do not show whether people reward flattery",
    }[row.sign]
    numbers = f"{row.standardized:+.2f} ({row.low:+.2f} to {row.high:+.2f}), p = {row.p_value:.2g}"
    return f"The weight of sycophancy, whose model scores higher what flatters less, is {numbers}: {meaning}."


def _list(names: Sequence[str]) -> str:
    words = [name.replace("_", " ") for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
