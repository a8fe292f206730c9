"""What is on the page besides the figures: sentences, cards and table rows, from the data of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from morlaif.evaluation.results import SFT, Correlations, Estimate, JudgeFacts, Matrix, Rate, Truncation, as_json
from morlaif.evaluation.wins import versus
from morlaif.naming import is_own
from morlaif.report.data import RunData, words

DASH = "–"
Rows = Sequence[Sequence[str]]  # of a table: texts of its cells, escaped when they are put in
JUDGES = {
    "rules": "The hidden human utility of the toy world decides, over all its principles, whichever the run uses.",
    "pm": "A gold preference model, trained on the held-out human labels that no policy has seen, decides.",
}


def ranked(run: RunData) -> list[tuple[str, Rate]]:
    """The arms and their win rates over SFT, the highest first; those without a valid verdict last."""
    rates = [(arm, run.results.win_rate[versus(arm, SFT)]) for arm in run.arms]
    return sorted(rates, key=lambda row: -1.0 if row[1].value is None else row[1].value, reverse=True)


def shared_models(run: RunData) -> Correlations:
    """The correlations without the models that one arm has to itself, which are of the same principles again."""
    found = run.details.correlation
    kept = [place for place, name in enumerate(found.names) if not is_own(name)]

    def part(matrix: Matrix) -> Matrix:
        return [[matrix[i][j] for j in kept] for i in kept]

    # the truth knows principles alone
    return Correlations([found.names[place] for place in kept], part(found.labels), part(found.scores), found.truth)


LEADERBOARD = {  # of an arm's budget
    "verdicts": "verdicts", "ratings": "ratings", "pm_steps": "PM steps", "ppo_steps": "policy steps",
    "ppo_episodes": "samples",
}  # fmt: skip


def leaderboard(run: RunData) -> dict[str, Any]:
    """Heads and rows: the arms by their win rate over SFT, with what each moved and was given; none for two arms."""
    if len(run.arms) < 3:
        return {"board_heads": [], "board_rows": []}
    rows = []
    for arm, rate in ranked(run):
        signs, budget = run.details.hacking.get(arm), run.details.budget.arms.get(arm)
        kl = signs.kl if signs is not None else run.curves[arm][-1].get("kl")
        bound = "≤ " if run.details.arms[arm].kl_bound and kl is not None else ""
        given = [getattr(budget, key, None) for key in LEADERBOARD]
        tokens = number(run.results.length.get(arm), 0)
        counts = [DASH if value is None else f"{value:,.0f}" for value in given]
        rows.append((run.label(arm), interval(rate), bound + number(kl, 1), tokens, *counts))
    return {"board_heads": ["policy", "win rate over SFT", "KL", "tokens", *LEADERBOARD.values()], "board_rows": rows}


def percent(value: float | None, digits: int = 1) -> str:
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    return DASH if value is None else f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", "−")


def interval(i: Estimate | None) -> str:
    """The share as `percent` says it, and the bounds in small type beside it."""
    if i is None or i.value is None or i.low is None or i.high is None:
        return DASH
    bounds = Markup(' <span class="ci">{:.1f}–{:.1f}</span>').format(100 * i.low, 100 * i.high)
    return percent(i.value) + bounds


def told_interval(i: Estimate) -> str:
    """The same within a sentence, which has no small type."""
    if i.low is None or i.high is None:
        return percent(i.value)
    return f"{percent(i.value)} [{100 * i.low:.1f}, {100 * i.high:.1f}]"


def title(run: RunData) -> str:
    count, several = len(run.principles), run.arm.of_principles
    by = f"by {run.label(run.policy)} scalarization"
    if run.reward == "judge":
        if not several:
            return "A policy aligned with a judge’s single rating"
        return f"A policy aligned with a judge’s ratings under {len(run.rewarded)} principles {by}"
    if run.reward != "pm" and several:
        return f"A policy aligned with {len(run.rewarded)} scores {by}"
    if not several:
        return "A policy aligned with a single preference model"
    plural = "preference model" if count == 1 else "preference models"
    return f"A policy aligned with {count} {plural} {by}"


def subtitle(run: RunData) -> str:
    model = words(str(run.config.get("model", {}).get("name", "trained")))
    of_run = f" of run “{run.config['name']}”" if run.config.get("name") else ""
    others = [_introduced(run, arm) for arm in run.arms[1:]]
    compared = f"SFT and {len(others)} other policies" if run.many else " and with ".join(["SFT", *others])
    return f"The {model} model{of_run}, compared with {compared} on {run.details.prompts} held-out prompts."


def _introduced(run: RunData, arm: str) -> str:
    """An arm as the page first names it."""
    if run.details.arms[arm].of_principles:
        return run.label(arm)
    return "a single rating by the judge" if run.reward == "judge" else "a single preference model"


def cards(run: RunData) -> list[dict[str, Any]]:
    """The headline numbers, each with what it rests on and what may be concluded from it."""
    rates = {key: rate for key, rate in run.results.win_rate.items() if key.startswith(_own(run))}
    shown = [versus(run.policy, SFT)] if run.many else list(rates)  # the leaderboard has the others
    made = [_win_card(run, key, rates[key]) for key in shown]
    known = {name: i.value for name, i in run.results.pm_accuracy.items() if i.value is not None}
    if known:
        worst = min(known, key=lambda name: known[name])
        note = (
            f"on held-out pairs; lowest {percent(known[worst])}, {words(worst)}"
            if len(known) > 1
            else f"on {run.results.pm_accuracy[worst].n} held-out pairs"
        )
        title = "Mean PM accuracy" if len(known) > 1 else "PM accuracy"
        made.append({"title": title, "value": percent(sum(known.values()) / len(known)), "note": note})
    if (gained := _gained(run)) is not None:
        made.append(gained)
    length = run.results.length
    note = f"nats a response; {number(length[run.policy], 0)} tokens, SFT {number(length[SFT], 0)}"
    title = "KL to SFT, bound" if run.arm.kl_bound else "KL to SFT"
    made.append({"title": title, "value": number(run.results.kl, 1), "note": note})
    return [{"bar": None, "verdict": ""} | card for card in made]


def _gained(run: RunData) -> dict[str, Any] | None:
    """The objective against SFT on the same prompts. Rollouts of the first and the last step answer different ones."""
    signs = run.details.hacking.get(run.policy)
    gain = signs.objective if signs is not None else None
    if gain is not None and gain.value is not None:
        level, bounds = percent(run.details.confidence, 0), [number(x, sign=True) for x in (gain.low, gain.high)]
        note = f"{run.label(run.policy)} objective on {gain.n} held-out prompts; {level} interval {' to '.join(bounds)}"
        return {"title": "Reward gained over SFT", "value": number(gain.value, sign=True), "note": note}
    last = run.curves[run.policy][-1]
    if last.get("eval/gain") is None:
        return None
    low, high = number(last["eval/gain_low"], sign=True), number(last["eval/gain_high"], sign=True)
    note = f"on prompts held out from PPO; 95 % interval {low} to {high}"
    return {"title": "Reward gained in PPO", "value": number(last["eval/gain"], sign=True), "note": note}


def _own(run: RunData) -> str:
    """How the policy's own comparisons begin."""
    return versus(run.policy, "")


def _win_card(run: RunData, key: str, rate: Rate) -> dict[str, Any]:
    card = {"title": f"Win rate over {run.label(key.removeprefix(_own(run)))}", "value": percent(rate.value)}
    if rate.value is None or rate.low is None or rate.high is None:
        return card | {"note": "no valid verdict"}
    level = percent(run.details.confidence, 0)
    verdict = "One seed: the interval covers prompts alone, so it is no verdict on the method."
    note = f"{level} interval {100 * rate.low:.1f}–{100 * rate.high:.1f} %, {rate.n} prompts"
    return card | {"note": note, "verdict": verdict, "bar": rate}


def judge_sentence(judge: JudgeFacts) -> str:
    """Who decides, and how far that is what people would say."""
    served = judge.served or {}  # which model that was, by its server
    answered = served.get("id") or served.get("name")
    who = JUDGES.get(judge.source, f"{judge.name}{f' ({answered})' if answered else ''} decides.")  # a language model
    found = judge.agreement
    if found is not None:
        rule = f"the rule “the longer response is better” with {told_interval(found.longer)}"
        who += f" It agrees with people on {told_interval(found.judge)} of {found.judge.n} pairs, {rule}."
    return f"{who} No verdict in words: {judge.doubt}." if judge.doubt else who


def win_rows(run: RunData) -> Rows:
    rows = []
    for key, rate in run.results.win_rate.items():
        shares = [percent(share, 0) for share in (rate.win, rate.tie, rate.loss, rate.flip_rate)]
        rows.append((run.comparison(key), interval(rate), *shares, str(rate.n)))
    return rows


def response_rows(run: RunData) -> Rows:
    return [
        (run.label(policy), number(f.tokens, 1), number(f.words, 1), percent(f.ended, 0), percent(f.distinct, 0))
        for policy, f in run.details.responses.items()
    ]


def change_sentence(run: RunData) -> str:
    of = "true scores" if run.details.true_change else "preference models’ scores"
    drawn = f" Drawn: {', '.join(map(run.label, run.drawn))}; the table has all." if run.many else ""
    return f"Change of the {of} against SFT on the same prompts, in standard deviations of SFT’s responses.{drawn}"


def changes(run: RunData) -> dict[str, Any]:
    """Heads and rows: a column for each arm, by the known truth and by the models."""
    true, score = run.details.true_change, run.details.score_change
    kinds = [(kind, moved) for kind, moved in (("true", true), ("by PM", score)) if moved and any(moved.values())]
    columns = [(f"{run.label(arm)}, {kind}", moved[arm]) for kind, moved in kinds for arm in run.arms]
    names = run.names or list(next(iter((true or {}).values()), ()))
    rows = [(words(name), *(change_cell(column.get(name)) for _, column in columns)) for name in names]
    return {"change_heads": [head for head, _ in columns], "change_rows": rows}


def change_cell(i: Estimate | None) -> str:
    if i is None or i.value is None:
        return DASH
    bounds = (number(i.low, sign=True), number(i.high, sign=True))
    return number(i.value, sign=True) + Markup(' <span class="ci">{} to {}</span>').format(*bounds)


def accuracy_rows(run: RunData) -> Rows:
    true, rows = run.results.pm_truth_accuracy, []
    for name, accuracy in pm_accuracies(run).items():
        fit = run.details.calibration.get(name)
        cells = [words(name), interval(accuracy), str(accuracy.n)]
        cells += [interval(true.get(name))] if true else []
        rows.append((*cells, number(fit.brier if fit else None, 3), number(fit.ece if fit else None, 3)))
    return rows


def pm_accuracies(run: RunData) -> dict[str, Estimate]:
    """Of every preference model on its own held-out labels, those of the principles first."""
    found = dict(run.results.pm_accuracy)
    if run.results.single_pm_accuracy is not None:
        found |= dict.fromkeys(run.whole, run.results.single_pm_accuracy)
    return found


def cut_sentence(cuts: Mapping[str, Truncation]) -> str:
    """What pairs that were too long have lost, where any were: most that a model of the run met."""
    found = max(cuts.values(), key=lambda one: one.train.pairs, default=None)
    if found is None or not found.train.pairs + found.held_out.pairs:
        return ""
    train, held = found.train, found.held_out
    return (
        f"Too long for the models: {train.pairs:,} training pairs and {held.pairs:,} held-out ones. Their "
        f"prompts were cut to {found.max_prompt:,} tokens, on both sides alike, by {train.prompt_tokens:,} "
        f"tokens in all, their responses by {train.response_tokens:,}; pairs whose sides were equal after it, and "
        f"that were left out: {train.equal + held.equal:,}."
    )


def objective_rows(run: RunData) -> Rows:
    return [
        (run.objective_name(arm), interval(values.get("human")), interval(values.get("truth")))
        for arm, values in run.results.objective_accuracy.items()
    ]


def matrix_rows(names: Sequence[str], matrix: Matrix) -> Rows:
    return [(words(name), *map(number, row)) for name, row in zip(names, matrix, strict=True)]


CURVE = {"reward": 3, "kl": 3, "length": 1}  # digits; a method of a user's may not count tokens


def curve_rows(run: RunData) -> Rows:
    return [
        (run.label(arm), str(row["step"]), *(number(row.get(key), digits) for key, digits in CURVE.items()))
        for arm in run.arms
        for row in run.curves[arm]
    ]


def kept_rows(run: RunData) -> Rows:
    """Policies that were kept on the way."""

    def value(found: Estimate | None) -> str:
        return number(found.value if found else None, sign=True)

    rows = []
    for arm, own in run.details.kept.items():
        for one in own:
            gained = value(one.proxy), value(one.gold), percent(one.win_rate.value)
            rows.append((run.label(arm), str(one.step), number(one.kl), *gained, number(one.tokens, 1)))
    return rows


def principle_curve_rows(run: RunData) -> Rows:
    rows = []
    for arm in [arm for arm in run.arms if run.curves[arm]]:
        first, last = run.curves[arm][0], run.curves[arm][-1]
        for key in (key for key in first if key.startswith("score/")):
            ends = (number(first[key], sign=True), number(last[key], sign=True))
            rows.append((run.label(arm), words(key.removeprefix("score/")), *ends))
    return rows


def sample(run: RunData, row: Mapping[str, Any]) -> dict[str, Any]:
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


def weight_rows(run: RunData) -> Rows:
    rows = []
    for arm, w in run.details.weights.items():
        for k, name in enumerate(w.names):
            direction = "more is better" if w.direction[k] > 0 else "less is better"
            statistics = (number(w.mean[k]), number(w.scale[k]))
            rows.append((words(name), run.label(arm), number(w.weight[k], 3), direction, *statistics))
    return rows


def config_rows(run: RunData) -> list[tuple[str, str]]:
    """The choices in which runs differ; the rest is below them."""

    def get(path: str) -> Any:
        value: Any = run.config
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
        ("Arms", ", ".join(run.arms)),
        ("Seed", str(get("seed"))),
    ]  # fmt: skip
    if not any(arm.models for arm in run.details.arms.values()):
        rows = [row for row in rows if row[0] != "Preference models"]
    return [(name, value.strip(" ·")) for name, value in rows if value.strip(" ·")]


def spoken(run: RunData, figure: str) -> str:
    """What a screen reader says in place of a figure; the numbers are in the table below it."""
    rates = [f"{run.comparison(key)} {percent(rate.value)}" for key, rate in run.results.win_rate.items()]
    texts = {
        "win_rates": f"Win rates with intervals: {'; '.join(rates)}",
        "changes": "Change of each principle’s score against SFT, with intervals",
        "pm_accuracy": "Accuracy of each preference model, with intervals",
        "objective_accuracy": "Accuracy of each objective on held-out pairs, with intervals",
        "correlations": "Correlations between principles: labels below the diagonal, scores above it",
        "training": "Objective, KL and response length over the steps of training",
        "training_principles": "Score of each preference model over the steps of training",
        "training_updates": "Figures of each update over the steps: divergence, clips, entropy, gradients, critic",
        "training_distributions": "Spread of the shaped rewards and of the advantages over the steps of training",
        "training_weights": "Weight of each principle over the steps, and how far each constraint is kept",
        "training_reward": "Each principle over the steps: whether it decides, its share of the variance, its cosine",
        "training_cosines": "Cosine of the advantages of each two principles",
        "training_kept": "What policies kept on the way gained, over the root of their KL to SFT",
        "cross_accuracy": "Accuracy of each preference model on the labels of each principle",
        "ablation": "Accuracy of the objective against the number of its principles",
        "label_agreement": "How often the labels of two principles prefer the same response",
    }
    return texts[figure]


def numbers(run: RunData) -> dict[str, Any]:
    """Every number behind the page."""
    found = {"results": as_json(run.results), "details": as_json(run.details)}
    return {**found, "curves": run.curves, "diagnostics": run.diagnostics, "samples": run.samples}
