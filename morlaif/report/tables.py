"""What stands on the page besides the figures: sentences, cards and table rows, from the data of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from morlaif.report.data import SINGLE, RunData, comparison, objective_name, words

DASH = "–"
JUDGES = {
    "rules": "The toy world’s own rules decide: the higher mean true score over the run’s principles wins.",
    "pm": "A gold preference model, trained on the held-out human labels that no policy has seen, decides.",
}


def percent(value: float | None, digits: int = 1) -> str:
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    return DASH if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(i: Mapping[str, Any] | None) -> str:
    """The share as `percent` says it, and the bounds in small type beside it."""
    if not i or i.get("value") is None:
        return DASH
    bounds = Markup(' <span class="ci">{:.1f}–{:.1f}</span>').format(100 * i["low"], 100 * i["high"])
    return percent(i["value"]) + bounds


def context(run: RunData) -> dict[str, Any]:
    """The variables of the page's template."""
    details, results = run.details, run.results
    return {
        "title": title(run),
        "subtitle": subtitle(run),
        "details": details,
        "results": results,
        "names": run.names,
        "scalarizer": run.label(run.arms[0]) if run.arms[0] != SINGLE else "identity",
        "cards": cards(run),
        "judge_sentence": _judge(details["judge"]),
        "win_rows": [_win_row(run, key, rate) for key, rate in results["win_rate"].items()],
        "change_sentence": (
            "Change of the true scores" if details.get("true_change") else "Change of the preference models’ scores"
        )
        + " against SFT on the same prompts, in standard deviations of SFT’s responses.",
        **_changes(run),
        "response_rows": [
            (
                run.label(policy),
                *(number(f[key], 1) for key in ("tokens", "words")),
                *(percent(f[key], 0) for key in ("ended", "distinct")),
            )
            for policy, f in details["responses"].items()
        ],
        "accuracy_rows": _accuracy_rows(run),
        "cut": _cut(details),
        "correlation_names": [words(name) for name in details["correlation"]["names"]],
        "correlation_rows": {
            kind: [
                (words(name), *(number(x) for x in row))
                for name, row in zip(details["correlation"]["names"], details["correlation"][kind], strict=True)
            ]
            for kind in ("labels", "scores")
        },
        "objective_rows": [
            (objective_name(run, arm), interval(values.get("human")), interval(values.get("truth")))
            for arm, values in results["objective_accuracy"].items()
        ],
        "curve_rows": [
            (run.label(arm), str(row["step"]), number(row["reward"], 3), number(row["kl"], 3), number(row["length"], 1))
            for arm in run.arms
            for row in run.curves[arm]
        ],
        "principle_curve_rows": _principle_curve_rows(run),
        "samples": [_sample(run, row) for row in run.samples],
        "weight_rows": _weight_rows(run),
        "config_rows": _config_rows(run.config),
        "config_yaml": yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, width=100),
    }


def title(run: RunData) -> str:
    count = len(run.principles)
    by = f"by {run.label(run.arms[0])} scalarization"
    if run.reward == "judge":
        if run.arms[0] == SINGLE:
            return "A policy aligned with a judge’s single rating"
        return f"A policy aligned with a judge’s ratings under {len(run.rewarded)} principles {by}"
    if run.reward != "pm" and run.arms[0] != SINGLE:
        return f"A policy aligned with {len(run.rewarded)} scores {by}"
    if run.arms[0] == SINGLE:
        return "A policy aligned with a single preference model"
    plural = "preference model" if count == 1 else "preference models"
    return f"A policy aligned with {count} {plural} {by}"


def subtitle(run: RunData) -> str:
    model = words(str(run.config.get("model", {}).get("name", "trained")))
    of_run = f" of run “{run.config['name']}”" if run.config.get("name") else ""
    single = "rating by the judge" if run.reward == "judge" else "preference model"
    baseline = f" and with a single {single}" if len(run.arms) > 1 else ""
    return f"The {model} model{of_run}, compared with SFT{baseline} on {run.details['prompts']} held-out prompts."


def cards(run: RunData) -> list[dict[str, Any]]:
    """The headline numbers, each with what it rests on and what may be concluded from it."""
    made = [_win_card(run, key, rate) for key, rate in run.results["win_rate"].items() if key.startswith("policy_")]
    known = {n: i for n, i in run.results["pm_accuracy"].items() if i["value"] is not None}
    if known:
        values = [i["value"] for i in known.values()]
        worst = min(known, key=lambda name: known[name]["value"])
        note = (
            f"on held-out pairs; lowest {percent(min(values))}, {words(worst)}"
            if len(known) > 1
            else f"on {known[worst]['n']} held-out pairs"
        )
        title = "Mean PM accuracy" if len(known) > 1 else "PM accuracy"
        made.append({"title": title, "value": percent(sum(values) / len(values)), "note": note})
    reward, gained = run.results["reward"], run.results["reward"]["last"] - run.results["reward"]["first"]
    note = f"from {number(reward['first'])} to {number(reward['last'])}, {run.label(run.arms[0])} objective"
    made.append({"title": "Reward gained in PPO", "value": number(gained, sign=True), "note": note})
    length = run.results["length"]
    note = f"nats a response; {number(length['policy'], 0)} tokens, SFT {number(length['sft'], 0)}"
    made.append({"title": "KL to SFT", "value": number(run.results["kl"], 1), "note": note})
    return [{"bar": None, "verdict": ""} | card for card in made]


def _win_card(run: RunData, key: str, rate: Mapping[str, Any]) -> dict[str, Any]:
    card = {"title": f"Win rate over {run.label(key.removeprefix('policy_vs_'))}", "value": percent(rate["value"])}
    if rate["value"] is None:
        return card | {"note": "no valid verdict"}
    level = percent(run.details["confidence"], 0)
    verdict = "No clear difference: the interval holds one half."
    if rate["low"] > 0.5:
        verdict = "Better: the whole interval is above one half."
    elif rate["high"] < 0.5:
        verdict = "Worse: the whole interval is below one half."
    note = f"{level} interval {100 * rate['low']:.1f}–{100 * rate['high']:.1f} %, {rate['n']} prompts"
    return card | {"note": note, "verdict": verdict, "bar": rate}


def _judge(judge: Mapping[str, Any]) -> str:
    if judge["source"] not in JUDGES:
        served = judge.get("served") or {}  # which model that was, by what its server told
        answered = served.get("id") or served.get("name")
        return f"{judge['name']}{f' ({answered})' if answered else ''} decides."  # a language model
    sentence = JUDGES[judge["source"]]
    if judge.get("accuracy", {}).get("value") is not None:
        sentence += f" On human labels it was not trained on it is right in {percent(judge['accuracy']['value'])}."
    return sentence


def _win_row(run: RunData, key: str, rate: Mapping[str, Any]) -> Sequence[str]:
    shares = [percent(rate[part], 0) for part in ("win", "tie", "loss", "flip_rate")]
    return (comparison(run, key), interval(rate), *shares, str(rate["n"]))


def _changes(run: RunData) -> dict[str, Any]:
    true, score = run.details.get("true_change"), run.details["score_change"]
    kinds = [(kind, moved) for kind, moved in (("true", true), ("by PM", score)) if moved and any(moved.values())]
    columns = [(f"{run.label(arm)}, {kind}", moved[arm]) for kind, moved in kinds for arm in run.arms]
    names = run.names or list(next(iter((true or {}).values()), ()))
    rows = [(words(name), *(change_cell(column.get(name)) for _, column in columns)) for name in names]
    return {"change_heads": [head for head, _ in columns], "change_rows": rows}


def change_cell(i: Mapping[str, Any] | None) -> str:
    if not i or i.get("value") is None:
        return DASH
    bounds = (number(i["low"], sign=True), number(i["high"], sign=True))
    return number(i["value"], sign=True) + Markup(' <span class="ci">{} to {}</span>').format(*bounds)


def _accuracy_rows(run: RunData) -> list[Sequence[str]]:
    own = dict(run.results["pm_accuracy"])
    if SINGLE in run.names:
        own[SINGLE] = run.results["single_pm_accuracy"]
    true = run.results.get("pm_truth_accuracy")
    rows = []
    for name, accuracy in own.items():
        fit = run.details["calibration"].get(name) or {}
        cells = [words(name), interval(accuracy), str(accuracy["n"])]
        cells += [interval(true.get(name))] if true else []
        rows.append((*cells, number(fit.get("brier"), 3), number(fit.get("ece"), 3)))
    return rows


def _cut(details: Mapping[str, Any]) -> str:
    """What pairs that were too long have lost, where any were: most that a model of the run met."""
    found = max((details.get("cut") or {}).values(), key=lambda one: one["train"]["pairs"], default=None)
    if found is None or not found["train"]["pairs"] + found["held_out"]["pairs"]:
        return ""
    train, held = found["train"], found["held_out"]
    return (
        f"Too long for the models: {train['pairs']:,} training pairs and {held['pairs']:,} held-out ones. Their "
        f"prompts were cut to {found['max_prompt']:,} tokens, on both sides alike, by {train['prompt_tokens']:,} "
        f"tokens in all, their responses by {train['response_tokens']:,}; pairs whose sides were equal after it, and "
        f"that were left out: {train['equal'] + held['equal']:,}."
    )


def _principle_curve_rows(run: RunData) -> list[Sequence[str]]:
    rows = []
    for arm in run.arms:
        first, last = run.curves[arm][0], run.curves[arm][-1]
        for key in (key for key in first if key.startswith("score/")):
            ends = (number(first[key], sign=True), number(last[key], sign=True))
            rows.append((run.label(arm), words(key.removeprefix("score/")), *ends))
    return rows


def _sample(run: RunData, row: Mapping[str, Any]) -> dict[str, Any]:
    answers = []
    for policy, answer in row["responses"].items():
        scores = [answer["scores"][name] for name in run.names]
        own = [answer["scores"][name] for name in run.principles or run.names]
        cells = [{"value": x, "strength": round(min(abs(x) / 3, 1) * 45)} for x in scores]
        answers.append(
            {
                "label": run.label(policy),
                "text": answer["text"],
                "tokens": answer["tokens"],
                "mean": sum(own) / len(own) if own else None,
                "cells": cells,
            }
        )
    return {"messages": row["messages"], "answers": answers}


def _weight_rows(run: RunData) -> list[Sequence[str]]:
    rows = []
    for arm, w in run.details["weights"].items():
        for k, name in enumerate(w["names"]):
            direction = "more is better" if w["direction"][k] > 0 else "less is better"
            statistics = (number(w["mean"][k]), number(w["scale"][k]))
            rows.append((words(name), run.label(arm), number(w["weight"][k], 3), direction, *statistics))
    return rows


def _config_rows(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The choices that tell one run from another; the rest stands below them."""

    def get(path: str) -> Any:
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def join(*paths: str) -> str:
        return " · ".join(words(str(get(path))) for path in paths if get(path) not in (None, ""))

    def keyed(**paths: str) -> str:
        return " · ".join(f"{words(key)} {get(path)}" for key, path in paths.items() if get(path) is not None)

    params = get("scalarizer.params") or {}
    rows = [
        ("Model", join("model.name")),
        ("Data", join("data.source") or join("data.name") or join("data.kind")),
        ("Feedback", join("feedback.source", "feedback.model")),
        ("Preference models", join("pm.kind", "pm.pooling") + " · " + keyed(rank="pm.lora.r", epochs="pm.epochs")),
        ("Reward", join("reward.kind", "reward.function", "reward.engine.model")),
        ("Scalarizer", " · ".join([join("scalarizer.name"), *(f"{words(str(k))} {v}" for k, v in params.items())])),
        ("Weights", join("weights.method")),
        ("PPO", keyed(steps="ppo.steps", rollouts="ppo.rollouts", epochs="ppo.epochs", KL_coefficient="ppo.kl.coef")),
        ("Judge", join("eval.judge.source", "eval.judge.engine.model")),
        ("Arms", ", ".join(map(str, get("arms") or ()))),
        ("Seed", str(get("seed"))),
    ]  # fmt: skip
    if get("reward.kind") in ("judge", "function") and SINGLE not in (get("arms") or ()):
        rows = [row for row in rows if row[0] != "Preference models"]
    return [(name, value.strip(" ·")) for name, value in rows if value.strip(" ·")]


def spoken(run: RunData, figure: str) -> str:
    """What a screen reader says in place of a figure; the numbers stand in the table below it."""
    rates = [f"{comparison(run, key)} {percent(rate['value'])}" for key, rate in run.results["win_rate"].items()]
    texts = {
        "win_rates": f"Win rates with intervals: {'; '.join(rates)}",
        "changes": "Change of each principle’s score against SFT, with intervals",
        "pm_accuracy": "Accuracy of each preference model, with intervals",
        "objective_accuracy": "Accuracy of each objective on held-out pairs, with intervals",
        "correlations": "Correlations between principles: labels below the diagonal, scores above it",
        "training": "Objective, KL and response length over PPO steps",
        "training_principles": "Score of each preference model over PPO steps",
        "cross_accuracy": "Accuracy of each preference model on the labels of each principle",
        "ablation": "Accuracy of the objective against the number of its principles",
        "label_agreement": "How often the labels of two principles prefer the same response",
    }
    return texts[figure]


def numbers(run: RunData) -> dict[str, Any]:
    """Every number behind the page."""
    return {"results": run.results, "details": run.details, "curves": run.curves, "samples": run.samples}
