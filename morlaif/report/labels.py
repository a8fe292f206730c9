"""What the page says of the feedback labels: how good they are, how the principles' relate, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from morlaif.evaluation.results import Estimate, RunDetails
from morlaif.feedback.information import warnings_of
from morlaif.naming import labelled_by
from morlaif.report.data import RunData, words
from morlaif.report.tables import DASH, interval, number, percent

KINDS = ("input_tokens", "output_tokens", "usd")
Cost = dict[str, float]  # by kind; 0 where it is not named
SPLITS = ("train", "eval")
FREE = {
    "rules": "the toy world’s own rules",
    "human": "human raters, as the data has them",
    "jsonl": "a file of ready verdicts",
}


def warnings(details: RunDetails) -> list[str]:
    """What makes a run's labels, or the verdicts on its policies, worthless: for the top of a page."""
    qualities = details.label_quality
    under: dict[str, list[str]] = {}
    for name, found in warnings_of(qualities).items():
        for warning in found:
            judge = qualities[name].get("judge", "of unknown name")
            under.setdefault(f"The judge of the labels, {judge}, {warning}", []).append(words(name))
    judge = details.judge
    return [f"{warning} (under {', '.join(names)})." for warning, names in under.items()] + [
        f"The judge of the policies, {judge.name}, {warning}." for warning in judge.warnings
    ]


def kappa(i: Estimate | None) -> str:
    if i is None or i.value is None:
        return DASH
    bounds = Markup(' <span class="ci">{} to {}</span>').format(number(i.low), number(i.high))
    return number(i.value) + bounds


def share(i: Estimate | None) -> str:
    return percent(i.value if i else None)


def _estimate(shown: Callable[[Estimate | None], str]) -> Callable[[Any], str]:
    """For a cell of `quality.json` that holds an estimate."""
    return lambda i: shown(Estimate(i["value"], i["low"], i["high"], i["n"]) if i else None)


# In a label's quality; a column is shown where the source can fill it for any principle.
COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "validity": ("valid", _estimate(share)),
    "agreement_truth": ("agrees with truth", _estimate(share)),
    "agreement_human": ("agrees with humans", _estimate(interval)),
    "kappa_human": ("κ with humans", _estimate(kappa)),
    "position_inconsistency": ("orders disagree", _estimate(share)),
    "mean_bias": ("position bias", lambda value: number(value, sign=True)),
    "prefers_longer": ("prefers longer", _estimate(share)),
    "confidence": ("confidence", percent),
}


def context(run: RunData) -> dict[str, Any]:
    """The variables of the page's section on labels."""
    if not run.names:
        lists = ("quality_heads", "quality_rows", "quality_total", "agreement_names", "agreement_rows")
        empty: dict[str, list[str]] = {name: [] for name in lists}
        text = ["This run’s reward needs no preference models, so no pairs were labelled.", *_rated(run)]
        return {**empty, **_spend(run), "quality_note": "", "label_sentences": text, "mean_correlation": ""}
    related = run.details.labels
    return {
        **_quality(run),
        **_spend(run),
        "label_sentences": [*_sentences(run), *_halo(run), *_rated(run)],
        "agreement_names": [words(name) for name in related.names],
        "agreement_rows": [
            (words(name), *(percent(x) if i != k else DASH for k, x in enumerate(row)))
            for i, (name, row) in enumerate(zip(related.names, related.agreement, strict=True))
        ],
        "mean_correlation": "" if related.mean_correlation is None else number(related.mean_correlation),
    }


def dollars(value: float) -> str:
    """Two decimals; more where they would hide it."""
    return f"{value:,.2f}" if value == 0 or value >= 1 else f"{value:.2g}" if value < 1e-4 else f"{value:.4f}"


def _quality(run: RunData) -> dict[str, Any]:
    """A row for each principle: quality on the training pairs, verdicts and cost on all."""
    qualities = run.details.label_quality
    parts = {name: train_quality(quality) for name, quality in qualities.items()}
    keys = [key for key in COLUMNS if any(value_of(part.get(key)) is not None for part in parts.values())]
    asked = {name: _asked(run, name) for name in qualities}
    costs = {name: quality_cost(quality) for name, quality in qualities.items()}
    paid = any(any(cost.values()) for cost in costs.values())

    def row(name: str, shown: Mapping[str, str], verdicts: int, usd: float) -> Sequence[str]:
        cells = [shown.get(key, "") for key in keys]
        return (words(name), *cells, f"{verdicts:,}", *([dollars(usd)] if paid else []))

    rows = [
        row(name, {key: COLUMNS[key][1](part.get(key)) for key in keys}, asked[name], costs[name]["usd"])
        for name, part in parts.items()
    ]
    valid, total = (sum(part.get(key, 0) for part in parts.values()) for key in ("valid", "n"))
    whole = {"validity": percent(valid / total if total else None)}
    in_all = row("all", whole, sum(asked.values()), sum(cost["usd"] for cost in costs.values()))
    return {
        "quality_heads": [COLUMNS[key][0] for key in keys] + ["verdicts"] + (["USD"] if paid else []),
        "quality_rows": rows,
        "quality_total": in_all if len(rows) > 1 else [],
        "quality_note": _note(keys),
    }


def _note(keys: Sequence[str]) -> str:
    explained = {
        "mean_bias": "Position bias is the log-odds given away to the option shown first.",
        "prefers_longer": "“Prefers longer” is how often the longer response wins: 50 % is none.",
    }
    text = [sentence for key, sentence in explained.items() if key in keys]
    return " ".join(
        ["How well the feedback source behaved on the training pairs; verdicts are those on all pairs.", *text]
    )


def _sentences(run: RunData) -> list[str]:
    parts = [train_quality(quality) for quality in run.details.label_quality.values()]
    text = []
    if not any((part.get("agreement_human") or {}).get("n") for part in parts):
        text.append("No human labels: these pairs have none, so agreement with people and κ are unknown.")
    if answered := _answered(run):
        text.append(f"The labels are answers of {answered}.")
    invalid: Counter[str] = sum((Counter(part.get("invalid") or {}) for part in parts), Counter())
    if invalid:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in invalid.most_common())
        text.append(f"Verdicts without a usable answer are left out, never counted as ties: {reasons}.")
    return text


def _answered(run: RunData) -> str:
    """Which models gave the labels, by their servers."""
    usages = [quality.get("usage") or {} for quality in run.details.label_quality.values()]
    served = [usage["served"] for usage in usages if usage.get("served")]
    names = dict.fromkeys(
        f"{one['name']} ({one['id']})" if one.get("id") and one.get("name") else one.get("id") or one.get("name")
        for one in served
    )
    return ", ".join(name for name in names if name)


def _halo(run: RunData) -> list[str]:
    """What asking all principles in one request did, where that was done."""
    halo = run.details.labels.halo
    if not halo:
        feedback = run.config.get("feedback", {})
        joint = feedback.get("source") == "openai" and feedback.get("mode") == "joint" and len(run.principles) > 1
        text = "All principles were asked in one request. No pair was asked apart as well, so their halo is unknown."
        return [text] if joint else []
    if not halo["pairs"]:
        return ["All principles were asked in one request. No audited pair has both labels: their halo is unknown."]
    text = f"All principles were asked in one request. On {halo['pairs']:,} pairs that were asked apart as well, "
    text += f"{percent(halo['same_side']['value'])} of the labels keep their side"
    if halo["same_side"]["value"] is not None:
        text += f" ({100 * halo['same_side']['low']:.1f}–{100 * halo['same_side']['high']:.1f})"
    text += f" and they move by {number(halo['mean_difference'])} on average."
    if halo["halo"] is not None:
        both = f"{number(halo['correlation_joint'])} together and {number(halo['correlation_separate'])} apart"
        text += f" The mean correlation between principles is {both}: a halo of {number(halo['halo'], sign=True)}."
    return [text]


def _ratings(run: RunData) -> Cost:
    """What the judges of the rewards counted, for the frozen statistics and in each step of PPO."""
    steps = [row for arm in run.details.weights for row in run.curves[arm]]
    rewards = [{k.removeprefix("reward/"): v for k, v in row.items() if k.startswith("reward/")} for row in steps]
    return added([weights.ratings for weights in run.details.weights.values()] + rewards)


def _cascade(counted: Cost) -> list[str]:
    """Of models that a judge helps where their members disagree."""
    if not counted.get("scored"):
        return []
    doubted, asked = counted.get("doubted", 0.0), counted.get("asked", 0.0)
    text = (
        f"Of {counted['scored']:,.0f} scores of preference models, members disagreed on {doubted:,.0f} "
        f"({percent(doubted / counted['scored'])}); the judge gave {asked:,.0f} of these."
    )
    if asked < doubted:
        text += f" On {doubted - asked:,.0f} the models went on alone: its budget was spent, or its answer of no use."
    return [text]


def _rated(run: RunData) -> list[str]:
    counted = _ratings(run)
    if counted.get("scored"):
        return _cascade(counted)
    if not counted.get("ratings"):
        return []
    text = f"Policies learnt from {counted['ratings']:,.0f} ratings of single responses."
    if counted.get("invalid"):
        share = percent(counted["invalid"] / counted["ratings"])
        text += f" {counted['invalid']:,.0f} ({share}) had no usable number and count as the mean of those beside them."
    return [text]


def _spend(run: RunData) -> dict[str, Any]:
    """What was really paid: labels, the audit of joint labels, ratings, and the judge of the policies."""
    qualities, judge = run.details.label_quality, run.details.judge
    labels = {name: quality_cost(quality) for name, quality in qualities.items()}
    audit = sum((quality.get("halo") or {}).get("usd", 0.0) for quality in qualities.values())
    parts = {
        "labels of the principles": added([labels[name] for name in run.principles]),
        "labels of the baseline": added([labels[name] for name in dict.fromkeys(map(labelled_by, run.whole))]),
        "audit of joint labels": {"usd": audit},
        "ratings that policies learnt from": {kind: n for kind, n in _ratings(run).items() if kind in KINDS},
        "judge of the policies": judge.cost,
    }
    parts = {what: cost for what, cost in parts.items() if any(cost.values())}
    source = run.config.get("feedback", {}).get("source")
    if not parts:
        return {"spend_note": f"Nothing: {FREE.get(source, 'the source of the labels')} asked for no money.",
                "spend_rows": [], "spend_total": []}  # fmt: skip
    built = audit + sum((quality.get("usage") or {}).get("usd", 0.0) for quality in qualities.values())
    note = "What the answers behind this run’s verdicts cost, also those that an earlier run had paid for."
    if any(cost["usd"] for cost in labels.values()):
        note += f" Of it, {dollars(built)} USD were spent on labels while the units of this run were built."
    rows = [(what, *_amounts(cost)) for what, cost in parts.items()]
    total = ("in all", *_amounts(added(list(parts.values()))))
    return {"spend_note": note, "spend_rows": rows, "spend_total": total if len(rows) > 1 else []}


def _amounts(cost: Cost) -> Sequence[str]:
    tokens = [f"{cost[kind]:,.0f}" if cost.get(kind) else DASH for kind in KINDS[:2]]
    return (dollars(cost.get("usd", 0.0)), *tokens)


def added(costs: Sequence[Cost]) -> Cost:
    kinds = dict.fromkeys(kind for cost in costs for kind in cost)
    return {kind: sum(cost.get(kind, 0.0) for cost in costs) for kind in kinds}


def train_quality(quality: Mapping[str, Any]) -> dict[str, Any]:
    """Quality on the training pairs, with the parts of the length bias beside the rest."""
    part = quality.get("train", quality)
    return {**part, "prefers_longer": (part.get("length_bias") or {}).get("prefers_longer")}


def quality_cost(quality: Mapping[str, Any]) -> Cost:
    return dict.fromkeys(KINDS, 0.0) | added([quality.get(split, {}).get("cost") or {} for split in SPLITS])


def _asked(run: RunData, name: str) -> int:
    """Verdicts asked for, each in both orders; the baseline's label of a pair is the mean of several."""
    quality = run.details.label_quality[name]
    pairs = sum(quality.get(split, {}).get("n", 0) for split in SPLITS)
    return pairs * (run.config.get("principles", {}).get("verdicts_per_pair", 1) if name in run.whole else 1)


def value_of(cell: Any) -> float | None:
    return cell.get("value") if isinstance(cell, Mapping) else cell
