"""Who is first, and how sure that is: the leaderboard, every two arms, where the variance comes from, and the sentence
at the top of the page."""

from __future__ import annotations

from collections.abc import Callable
from statistics import stdev

from markupsafe import Markup

from morlaif.evaluation.aggregate import MEASURES, Aggregate, CellRate, Standing, turned
from morlaif.evaluation.results import Estimate
from morlaif.report.tables import DASH, Rows, number, percent
from morlaif.variance import Method

COVERS: dict[Method, str] = {
    "seeds and prompts": "seeds and prompts",
    "seeds": "seeds",
    "prompts": "prompts alone",
    "none": DASH,
}
_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {  # measure -> head, and how a value is written
    "win_rate": ("win rate over SFT", percent),
    "length_controlled": ("length-controlled", percent),
    "length": ("tokens", lambda x: number(x, 1)),
    "kl": ("KL, nats", lambda x: number(x, 2)),
    "objective_accuracy": ("objective accuracy", percent),
    "seconds": ("seconds to train", lambda x: f"{x:,.0f}"),
    "usd": ("USD for labels", lambda x: number(x, 2)),
}
assert _COLUMNS.keys() == MEASURES.keys()
Write = Callable[[Estimate | None, Callable[[float], str]], str]


def leaderboard(found: Aggregate, write: Write | None = None) -> tuple[list[str], Rows]:
    """A row for each arm, best first; with plain text, or as `write` writes an estimate."""
    write = write or plain
    cells = {cell.key: cell for cell in found.cells}
    rows: list[list[str]] = []
    for one in found.standings:
        cell = cells[one.cell]
        own = {name: found.measure(cell.key, name) for name in MEASURES}
        values = [
            write(value, _COLUMNS[name][1]) + (" (bound)" if value is not None and value.bound else "")
            for name, value in own.items()
        ]
        strength = write(one.strength, lambda x: number(x, 2, sign=True))
        rows.append([cell.label, _rank(one), str(cell.seeds), strength, *values])
    heads = ["arm", "rank", "seeds", "strength", *(head for head, _ in _COLUMNS.values())]
    kept = [k for k in range(len(heads)) if k < 3 or any(row[k] not in (DASH, number(0.0)) for row in rows)]
    return [heads[k] for k in kept], [tuple(row[k] for k in kept) for row in rows]


def _rank(one: Standing) -> str:
    return str(one.best) if one.best == one.worst else f"{one.best}–{one.worst}"


def plain(found: Estimate | None, write: Callable[[float], str]) -> str:
    if found is None or found.value is None:
        return DASH
    if found.low is None or found.high is None:
        return write(found.value)
    return f"{write(found.value)} [{write(found.low)}, {write(found.high)}]".replace(" %,", ",").replace(" %]", "]")


def marked(found: Estimate | None, write: Callable[[float], str]) -> str:
    """For the page: bounds in small type."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return plain(found, write)
    low, high = (write(x).removesuffix(" %") for x in (found.low, found.high))
    return Markup('{} <span class="ci">{} to {}</span>').format(write(found.value), low, high)


def rates_table(found: Aggregate, write: Write = marked) -> tuple[list[str], Rows]:
    """Every two arms, the surest difference first."""
    order = sorted(found.rates, key=lambda rate: (rate.adjusted is None, rate.adjusted or 0, rate.p_value or 0))
    heads = ["arm over arm", "win rate", "interval covers", "seeds", "p, adjusted", "verdict", "t over seeds alone",
             "crossed bootstrap"]  # fmt: skip
    rows = [
        (
            f"{_first(rate)} over {_second(rate)}", write(_better_side(rate), percent), COVERS[rate.method],
            f"{rate.seeds}{'' if rate.paired else ', not paired'}", _p(rate), _verdict(rate),
            write(_side(rate, rate.t), percent), write(_side(rate, rate.bootstrap), percent),
        )
        for rate in order
    ]  # fmt: skip
    kept = [k for k in range(len(heads)) if k < 6 or any(row[k] != DASH for row in rows)]
    return [heads[k] for k in kept], [tuple(row[k] for k in kept) for row in rows]


def _upside(rate: CellRate) -> bool:
    return (rate.value or 0.5) >= 0.5


def _first(rate: CellRate) -> str:
    return rate.label if _upside(rate) else rate.against_label


def _second(rate: CellRate) -> str:
    return rate.against_label if _upside(rate) else rate.label


def _better_side(rate: CellRate) -> Estimate | None:
    return _side(rate, rate)


def _side(rate: CellRate, found: Estimate | None) -> Estimate | None:
    """As the arm with the higher rate sees it."""
    return found if found is None or _upside(rate) else turned(found)


def _p(rate: CellRate) -> str:
    if rate.adjusted is None or rate.seeds < 2:
        return DASH
    return "< .001" if rate.adjusted < 0.001 else f"{rate.adjusted:.3f}".replace("0.", ".", 1)


def _verdict(rate: CellRate) -> str:
    """Of the first as the table turns it."""
    return {"better": "better", "worse": "better", "undecided": "undecided"}.get(rate.verdict, DASH)


def shares_table(found: Aggregate) -> tuple[list[str], Rows]:
    """Where the variance of one verdict comes from, for arms over SFT and over the first arm."""
    rates = [rate for rate in found.rates if rate.shares and sum(rate.shares.values()) > 0]
    heads = ["arm over arm", "seed", "prompt", "rest: both together, and the verdict", "deviation between seeds"]
    rows = []
    for rate in rates:
        shares = rate.shares or {}
        own = [percent(shares[name], 0) for name in ("seed", "prompt", "rest")]
        rows.append((f"{rate.label} over {rate.against_label}", *own, percent(stdev(rate.by_seed.values()))))
    return heads, rows


def verdicts(found: Aggregate) -> list[str]:
    """Every clear difference in a line, the surest first."""
    clear = [rate for rate in found.rates if rate.verdict in ("better", "worse")]
    return [
        f"{_first(rate)} is better than {_second(rate)}: {plain(_better_side(rate), percent)}, p {_p(rate)}"
        for rate in sorted(clear, key=lambda rate: rate.adjusted or 0)
    ]


def sentence(found: Aggregate) -> str:
    """Who is at the top: one arm where no other may be first, else all that may."""
    if len(found.standings) < 2:
        return ""
    cells = {cell.key: cell for cell in found.cells}
    if all(rate.seeds < 2 for rate in found.rates):
        return "With one seed the intervals cover prompts alone: no arm is called better."
    top = [cells[one.cell].label for one in found.standings if one.best == 1]
    if len(top) == 1:
        return f"Ranked first: {top[0]}."
    if len(top) == len(found.standings):
        return "No arm is clearly better than another."
    return f"At the top, and not told apart: {', '.join(top[:-1])} and {top[-1]}."


def seeds_note(found: Aggregate) -> str:
    """What the intervals are over."""
    level = percent(found.confidence, 0)
    most = max((rate.seeds for rate in found.rates), default=0)
    if most < 2:
        return f"{found.note.capitalize()} ({level}). Train more seeds, as arms.seed=0,1,2,3,4, to compare arms."
    text = (
        f"{level} intervals over seeds and prompts together. Ranks are ranges: an arm ranks below those that are "
        "clearly better than it, by p-values adjusted for all comparisons of the table (Holm)."
    )
    return text + (f" {found.note.capitalize()}." if found.note else "")
